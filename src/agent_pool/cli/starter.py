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

You review code. Read the change and everything that it touches before you judge it.

Report what you found as a list, the worst first. For each finding give the file and line, what
goes wrong and for whom, and the smallest change that mends it. Say nothing about matters of
taste. When you find nothing, say so in one sentence.

You change no files.
"""

SKILL_TEXT: Final = """\
---
name: review-checklist
description: What to look at when reviewing a change.
---

Look at these, in this order:

1. Does it do what it says? Try the cases at the edge: empty, one, very many, malformed.
2. What happens when a step fails halfway? Is anything left open, locked or half written?
3. Is there a test that would fail without the change?
4. Would someone who sees the code for the first time read it as it is meant?
"""

EXPERTISE_TEXT: Final = """\
# This project

Replace this with what an agent must know about the project and cannot see at a glance:

- what it is for and who uses it;
- how to run it and its tests;
- which rules hold here that do not hold elsewhere.
"""
