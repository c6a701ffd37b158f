"""The texts that `agent-pool init` writes."""

from typing import Final

AGENT: Final = "code-reviewer"
SKILL: Final = "review-checklist"
EXPERTISE: Final = "this-project"

AGENT_TEXT: Final = """\
---
name: code-reviewer
description: Reviews a commit, a branch or files for bugs, missing tests and unclear code.
skills: [review-checklist]
expertise: [this-project]
tools: [Read, Grep, Glob, Bash]
---

You review code. Read the change and all code that it affects before you judge it.

Report your findings as a list, the most serious first. For each finding give the file and line,
the problem, who is affected by it, and the smallest change that fixes it. Do not comment on
matters of taste. If you find no problem, report that in one sentence.

Do not change any file.
"""

SKILL_TEXT: Final = """\
---
name: review-checklist
description: A list of questions for the review of a change.
---

Answer these questions, in this order:

1. Does the change do what its description says? Try the edge cases: empty, one, very many,
   malformed.
2. What happens if a step fails halfway? Is anything left open, locked or half written?
3. Is there a test that would fail without the change?
4. Does a reader who sees this code for the first time understand it correctly?
"""

EXPERTISE_TEXT: Final = """\
# This project

Replace this text with facts that an agent needs and cannot see at once in the code:

- the purpose of the project and its users;
- how to run it and its tests;
- the rules that are special to this project.
"""
