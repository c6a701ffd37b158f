from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool.agents.prompt import ExpertiseLibrary, SkillLibrary, compose_prompt, trim_text
from agent_pool.errors import ConfigError

TEXTS = st.lists(st.tuples(st.text(min_size=1, max_size=9), st.text(max_size=30)), max_size=3)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def test_prompt_holds_skills_then_expertise_then_body_under_headings() -> None:
    prompt = compose_prompt(
        "You review.", [("python", "Use it."), ("git", "Too.")], [("law", "Obey.")]
    )
    assert prompt == (
        "# Skill: python\n\nUse it.\n\n"
        "# Skill: git\n\nToo.\n\n"
        "# Expertise: law\n\nObey.\n\n"
        "# Instructions\n\nYou review."
    )


def test_a_body_alone_has_no_heading() -> None:
    assert compose_prompt("You review.", [], []) == "You review."


def test_without_a_body_the_prompt_ends_with_the_last_text() -> None:
    assert compose_prompt("", [("python", "Use it.")], []) == "# Skill: python\n\nUse it."
    assert compose_prompt("", [], []) == ""


@given(st.text(max_size=50), TEXTS, TEXTS)
def test_composing_is_deterministic_and_loses_no_text(
    body: str, skills: list[tuple[str, str]], expertise: list[tuple[str, str]]
) -> None:
    prompt = compose_prompt(body, skills, expertise)
    assert prompt == compose_prompt(body, list(skills), tuple(expertise))
    assert all(text.rstrip() in prompt for _, text in [*skills, *expertise, ("", body)])
    assert prompt == (prompt.rstrip() if skills or expertise else body)


@given(st.text(max_size=50))
def test_tidying_a_text_twice_gives_the_same_result(text: str) -> None:
    assert trim_text(trim_text(text)) == trim_text(text)


def test_tidying_removes_trailing_blanks_and_keeps_indentation() -> None:
    assert trim_text("\n\n a  \n\t\n  b\t\n\n") == "a\n\n  b"


def test_frontmatter_of_skills_and_expertise_stays_out_of_the_prompt(tmp_path: Path) -> None:
    front = "---\r\nname: python\r\ndescription: [not: yaml\r\n---\r\n"
    write(tmp_path / "python" / "SKILL.md", f"{front}\r\nUse it.  \r\n")
    write(tmp_path / "law.md", "---\nname: law\n---\nObey.\n")
    assert SkillLibrary((tmp_path,), tmp_path).read("python") == "Use it."
    assert ExpertiseLibrary((tmp_path,)).read("law") == "Obey."


def test_a_text_without_frontmatter_is_taken_whole(tmp_path: Path) -> None:
    write(tmp_path / "law.md", "---\n\nObey --- always.\n")
    assert ExpertiseLibrary((tmp_path,)).read("law") == "---\n\nObey --- always."


def test_the_first_folder_that_has_a_text_wins(tmp_path: Path) -> None:
    folders = (tmp_path / "missing", tmp_path / "one", tmp_path / "two")
    write(folders[1] / "law.md", "first")
    write(folders[2] / "law.md", "second")
    write(folders[2] / "tax.md", "only here")
    expertise = ExpertiseLibrary(folders)
    assert [expertise.read("law"), expertise.read("tax")] == ["first", "only here"]


def test_error_for_a_missing_text_suggests_names_and_lists_paths(tmp_path: Path) -> None:
    folders = (tmp_path / "one", tmp_path / "two")
    write(folders[0] / "python" / "SKILL.md", "x")
    write(folders[0] / "readme.txt", "x")
    with pytest.raises(ConfigError) as caught:
        SkillLibrary(folders, tmp_path).read("pyton")
    assert str(caught.value) == (
        "no skill is called 'pyton' (did you mean python?); searched for"
        f" {folders[0]}/pyton/SKILL.md, {folders[1]}/pyton/SKILL.md;"
        " correct the name or create one of these files"
    )


def test_an_edited_text_is_read_again(tmp_path: Path) -> None:
    expertise = ExpertiseLibrary((tmp_path,))
    for text in ("one", "two", "three"):
        write(tmp_path / "law.md", text)
        assert expertise.read("law") == text


def test_a_folder_as_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.md").mkdir()
    with pytest.raises(ConfigError, match="not a regular file"):
        ExpertiseLibrary((tmp_path,)).read("a")


def test_a_byte_that_is_not_utf8_becomes_a_replacement_character(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_bytes(b"caf\xe9 here")
    assert ExpertiseLibrary((tmp_path,)).read("b") == "caf\ufffd here"


def test_links_to_skills_elsewhere_are_followed(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside" / "SKILL.md", "shared")
    inside = tmp_path / "skills"
    (inside / "file").mkdir(parents=True)
    (inside / "folder").symlink_to(outside.parent)
    (inside / "file" / "SKILL.md").symlink_to(outside)
    skills = SkillLibrary((inside,), tmp_path)
    assert [skills.read("folder"), skills.read("file")] == ["shared", "shared"]


def test_a_folder_of_texts_can_be_a_symbolic_link(tmp_path: Path) -> None:
    write(tmp_path / "real" / "law.md", "Obey.")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert ExpertiseLibrary((tmp_path / "link",)).read("law") == "Obey."


def test_a_skill_text_names_the_folder_of_its_extra_files(tmp_path: Path) -> None:
    project = tmp_path / "project"
    path = write(project / ".claude" / "skills" / "pdf" / "SKILL.md", "Run it.")
    skills = SkillLibrary((project / ".claude" / "skills",), project)
    assert skills.read("pdf") == "Run it."
    write(path.with_name("run.py"), "")
    assert skills.read("pdf") == "(Its files: .claude/skills/pdf)\n\nRun it."


def test_the_skill_dir_variable_becomes_a_portable_path_where_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folders = {
        tmp_path / "project" / ".claude" / "skills": "python .claude/skills/pdf/run.py",
        tmp_path / "home" / ".claude" / "skills": "python ~/.claude/skills/pdf/run.py",
        tmp_path / "elsewhere": f"python {tmp_path}/elsewhere/pdf/run.py",
    }
    for folder, text in folders.items():
        write(folder / "pdf" / "SKILL.md", "python ${CLAUDE_SKILL_DIR}/run.py")
        assert SkillLibrary((folder,), tmp_path / "project").read("pdf") == text


def test_the_stamp_changes_when_texts_are_added_edited_or_removed(tmp_path: Path) -> None:
    skills = SkillLibrary((tmp_path,), tmp_path)
    stamps = [skills.stamp()]
    path = write(tmp_path / "pdf" / "SKILL.md", "a")
    stamps.append(skills.stamp())
    assert skills.stamp() == stamps[-1]
    write(path, "ab")
    stamps.append(skills.stamp())
    path.unlink()
    stamps.append(skills.stamp())
    assert len(set(stamps)) == 4
