"""Write `src/agent_pool/mcp/tools.json`, the tools as clients see them: python scripts/tools_file.py.

The MCP server answers the first `tools/list` from this file, before the modules are loaded that
declare the tools; so does the launcher of the plugin.
"""

from __future__ import annotations

import json

from agent_pool.mcp.tool_list import FILE
from agent_pool.mcp.tools import static_tools


def tools_text() -> str:
    """Return the text of the file."""
    return json.dumps(static_tools(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(tools_text(), encoding="utf-8")
