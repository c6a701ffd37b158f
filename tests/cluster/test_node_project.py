"""Where a project is on a node, with real git repositories."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent_pool import ConfigError
from agent_pool.cluster import node_project
from agent_pool.cluster.node_project import NodeLacksProject, NodeProjects, checkouts_folder
from agent_pool.cluster.project_source import ProjectSource, checked_remote, find_source
from agent_pool.loopback import ModelReply, ModelRequest, ToolUseBlock
from agent_pool.pool.git import GitError, run_git
from support.pools import PoolProject
from support.repositories import git, make_repository
from support.waiting import run

ENVIRON = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
"""The environment of git: nothing of the user who runs the tests."""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Make a checkout whose only commit is pushed to a bare remote beside it."""
    folder = tmp_path / "shop"
    (folder / "api").mkdir(parents=True)
    (folder / "api" / "main.py").write_text("print(1)\n")
    make_repository(folder)
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "remote.git")
    git(folder, "remote", "add", "origin", str(tmp_path / "remote.git"))
    git(folder, "push", "--quiet", "--set-upstream", "origin", "main")
    return folder


def describe(folder: Path) -> ProjectSource:
    return run(find_source(folder, "git", ENVIRON))


def node(tmp_path: Path, name: str = "node") -> NodeProjects:
    return NodeProjects(tmp_path / name, ENVIRON)


def commit(folder: Path, name: str = "new.txt", text: str = "new\n") -> None:
    (folder / name).write_text(text)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=more")


def checkouts(tmp_path: Path, name: str = "node") -> list[Path]:
    return sorted(one for one in (tmp_path / name).glob("*/trees/*") if one.is_dir())


@asynccontextmanager
async def held(projects: NodeProjects, *sources: ProjectSource) -> AsyncIterator[list[Path]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(projects.hold(one)) for one in sources]


# On the caller's machine


def test_a_project_is_described_by_remote_commit_and_folder(shop: Path, tmp_path: Path) -> None:
    found = describe(shop / "api")
    assert found == ProjectSource(
        "git",
        str(shop / "api"),
        "api",
        str(tmp_path / "remote.git"),
        git(shop, "rev-parse", "HEAD"),
    )
    assert ProjectSource.from_json(found.as_json()) == found
    assert run(find_source(shop, "path", ENVIRON)) == ProjectSource("path", str(shop))


def test_a_detached_commit_that_is_pushed_can_be_given_to_nodes(shop: Path) -> None:
    git(shop, "checkout", "--quiet", "--detach")
    assert describe(shop).commit == git(shop, "rev-parse", "HEAD")


def test_uncommitted_changes_are_refused_with_their_names(shop: Path) -> None:
    (shop / "api" / "main.py").write_text("print(2)\n")
    (shop / "a new file.txt").write_text("")
    with pytest.raises(ConfigError, match=r"2 changes not committed \(api/main.py, a new file"):
        describe(shop)


def test_worktrees_of_tasks_and_ignored_files_are_no_changes(shop: Path) -> None:
    (shop / ".git" / "info" / "exclude").write_text("build/\n")
    for name in ("build/x.o", ".claude/worktrees/one/file"):
        (shop / name).parent.mkdir(parents=True)
        (shop / name).write_text("")
    assert describe(shop).commit


def test_a_commit_that_is_not_pushed_is_refused_with_the_remedy(shop: Path) -> None:
    commit(shop)
    with pytest.raises(ConfigError, match=r"is in no branch of the remote 'origin'.*git push"):
        describe(shop)
    git(shop, "push", "--quiet")
    assert describe(shop).commit == git(shop, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("commands", "problem"),
    [
        ([["remote", "remove", "origin"]], "no `origin`"),
        ([["config", "remote.origin.url", "ext::sh -c touch% pwned"]], "control characters"),
        ([["config", "remote.origin.url", "ext::touch"]], "nodes fetch from nothing else"),
        ([["checkout", "--quiet", "--orphan", "empty"]], "there is no commit yet"),
    ],
)
def test_a_project_that_nodes_cannot_fetch_is_refused(
    shop: Path, commands: list[list[str]], problem: str
) -> None:
    for command in commands:
        git(shop, *command)
    with pytest.raises(ConfigError, match=problem):
        describe(shop)


def test_a_folder_without_a_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a git repository"):
        describe(tmp_path)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://github.com/a/b.git", None),
        ("https://user:secret@github.com:8443/a/b.git", "https://github.com:8443/a/b.git"),
        ("https://token@github.com/a/b", "https://github.com/a/b"),
        ("ssh://git@github.com:22/a/b.git", None),
        ("ssh://git:secret@github.com/a/b.git", "ssh://git@github.com/a/b.git"),
        ("git@github.com:a/b.git", None),
        ("file:///srv/git/b.git", None),
        ("/srv/git/b.git", None),
    ],
)
def test_a_remote_is_sent_to_nodes_without_its_password(url: str, sent: str | None) -> None:
    assert checked_remote(url) == (sent or url)


@pytest.mark.parametrize(
    "url",
    [
        *("ext::sh", "fd::17", "https::evil", "ext::sh -c id", "", "../b.git", "b.git", "--all"),
        *("-oProxyCommand=id:x", "a@-oProxyCommand=id:x", "ssh://-oProxyCommand=id/x"),
        *("ssh://-u@host/x", "ssh://%2doProxyCommand/x", "host:-x", "host::x", "ftp://host/x"),
        *("https://host/a\nhost=evil", "https://host/%0ahost=evil", "https:///x", "https://[/x"),
        *("ssh://git@host:port/x", "transport::https://host/x", "a" * 3000),
    ],
)
def test_a_remote_that_could_run_a_program_is_refused(url: str) -> None:
    with pytest.raises(GitError):
        checked_remote(url)


def test_a_password_of_a_refused_remote_is_not_shown() -> None:
    with pytest.raises(GitError) as raised:
        checked_remote("ftp://user:secret@host/x")
    assert "secret" not in str(raised.value)


def test_a_project_outside_the_working_dir_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "base" / "shop"
    inside.mkdir(parents=True)
    found = run(find_source(inside, "working_dir", ENVIRON, tmp_path / "base"))
    assert found.inside == "shop"
    with pytest.raises(ConfigError, match="the one folder that Ray copies"):
        run(find_source(tmp_path, "working_dir", ENVIRON, tmp_path / "base"))


# On a node


def test_a_node_checks_out_the_commit_of_the_caller(shop: Path, tmp_path: Path) -> None:
    source = describe(shop / "api")
    shutil.move(shop, tmp_path / "away")

    async def main() -> None:
        async with held(node(tmp_path), source) as [folder]:
            assert (folder / "main.py").read_text() == "print(1)\n"
            assert folder.name == "api"
            assert git(folder, "rev-parse", "HEAD") == source.commit

    run(main())


def test_tasks_of_one_time_share_a_checkout_and_later_ones_a_clean_one(
    shop: Path, tmp_path: Path
) -> None:
    source, projects = describe(shop), node(tmp_path)

    async def main() -> None:
        async with held(projects, source) as [first]:
            (first / "notes.txt").write_text("of the first task")
            async with held(projects, source) as [second]:
                assert second == first
        async with held(projects, source) as [third]:
            assert third != first
            assert not (third / "notes.txt").exists()
        assert (first / "notes.txt").exists()
        async with held(projects, source) as [fourth]:
            assert fourth == third

    run(main())


def test_a_checkout_with_a_commit_of_a_task_is_not_used_again(shop: Path, tmp_path: Path) -> None:
    source, projects = describe(shop), node(tmp_path)

    async def main() -> None:
        async with held(projects, source) as [first]:
            commit(first)
        async with held(projects, source) as [second]:
            assert second != first

    run(main())


def test_a_second_commit_is_fetched_and_stands_beside_the_first(shop: Path, tmp_path: Path) -> None:
    first, projects = describe(shop), node(tmp_path)

    async def main() -> None:
        async with held(projects, first) as [old]:
            commit(shop)
            git(shop, "push", "--quiet")
            second = await find_source(shop, "git", ENVIRON)
            async with held(projects, second) as [new]:
                assert (new / "new.txt").exists()
                assert not (old / "new.txt").exists()

    run(main())


def test_tasks_that_begin_together_make_one_checkout(shop: Path, tmp_path: Path) -> None:
    source = describe(shop)

    async def main() -> None:
        both = [node(tmp_path), node(tmp_path)]  # two processes of a node have the same cache
        ready = asyncio.Barrier(4)

        async def one(projects: NodeProjects) -> Path:
            async with held(projects, source) as [folder]:
                async with asyncio.timeout(30):
                    await ready.wait()
                return folder

        folders = await asyncio.gather(*(one(projects) for projects in both * 2))
        assert len(set(folders)) == 1
        assert checkouts(tmp_path) == [folders[0]]

    run(main())


def make_old(tmp_path: Path, seconds: float) -> None:
    """Let all checkouts of a node be unused for some seconds more."""
    for lock in (tmp_path / "node").glob("*/trees/*.lock"):
        then = lock.stat().st_mtime - seconds
        os.utime(lock, (then, then))


def test_only_checkouts_that_are_unused_for_long_are_removed(shop: Path, tmp_path: Path) -> None:
    source, projects = describe(shop), node(tmp_path)

    async def main() -> None:
        async with held(projects, source) as [folder]:
            make_old(tmp_path, node_project.UNUSED_SECONDS + 1)
            await projects.clean()
            assert folder.is_dir()  # it is in use
        await projects.clean()
        assert folder.is_dir()  # it was used just now
        make_old(tmp_path, node_project.UNUSED_SECONDS + 1)
        await projects.clean()
        assert checkouts(tmp_path) == []
        repository = folder.parents[1]
        assert len(git(repository, "worktree", "list").splitlines()) == 1

    run(main())


def test_a_changed_checkout_is_kept_for_a_week(shop: Path, tmp_path: Path) -> None:
    source, projects = describe(shop), node(tmp_path)

    async def main() -> None:
        async with held(projects, source) as [folder]:
            (folder / "notes.txt").write_text("of a task")
        make_old(tmp_path, node_project.UNUSED_SECONDS + 1)
        await projects.clean()
        assert (folder / "notes.txt").exists()
        make_old(tmp_path, node_project.CHANGED_SECONDS)
        await projects.clean()
        assert checkouts(tmp_path) == []

    run(main())


HOLD = """
import asyncio, os, pathlib, sys
from agent_pool.cluster.node_project import NodeProjects
from agent_pool.cluster.project_source import ProjectSource
import json

async def main():
    projects = NodeProjects(pathlib.Path(sys.argv[1]), dict(os.environ))
    async with projects.hold(ProjectSource.from_json(json.loads(sys.argv[2]))) as folder:
        print(folder, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_checkout_of_a_killed_process_is_free_again(shop: Path, tmp_path: Path) -> None:
    source, projects = describe(shop), node(tmp_path)
    environ = {**ENVIRON, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", HOLD, str(tmp_path / "node"), json.dumps(source.as_json())]
    with subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        folder = Path(other.stdout.readline().strip())
        make_old(tmp_path, node_project.UNUSED_SECONDS + 1)
        run(projects.clean())
        assert folder.is_dir()
        other.send_signal(signal.SIGKILL)
    run(projects.clean())
    assert checkouts(tmp_path) == []


def test_a_checkout_that_a_kill_left_half_made_is_made_anew(shop: Path, tmp_path: Path) -> None:
    source, projects = describe(shop), node(tmp_path)

    async def main() -> None:
        async with held(projects, source) as [folder]:
            pass
        # As a process leaves it that is killed in the middle of `git worktree add`.
        folder.with_name(f"{folder.name}.lock").write_bytes(b"")
        (folder / "api" / "main.py").unlink()
        async with held(projects, source) as [made]:
            assert (made / "api" / "main.py").exists()
        assert checkouts(tmp_path) == [made]

    run(main())


def test_a_cancelled_checkout_leaves_nothing_behind(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, projects = describe(shop), node(tmp_path)

    async def main() -> None:
        begun = asyncio.Event()

        async def slow(*arguments: object, **options: object) -> str:
            done = await run_git(*arguments, **options)  # type: ignore[arg-type]
            if "add" in arguments:
                begun.set()
                await asyncio.Event().wait()
            return done

        monkeypatch.setattr(node_project, "run_git", slow)
        work = asyncio.create_task(enter(projects, source))
        await begun.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert checkouts(tmp_path) == []

    run(main())


async def enter(projects: NodeProjects, source: ProjectSource) -> None:
    async with projects.hold(source):
        pass


def replaced(source: ProjectSource, change: dict[str, str]) -> ProjectSource:
    return ProjectSource.from_json({**source.as_json(), **change})


@pytest.mark.parametrize(
    "change",
    [
        {"inside": "../.."},
        {"inside": "/etc"},
        {"inside": "no such folder"},
        {"remote": "ext::sh -c id"},
        {"remote": "https://user:secret@host/x"},
        {"commit": "--upload-pack=id"},
        {"commit": "main"},
        {"commit": "0" * 40},
    ],
)
def test_a_wrong_description_is_the_nodes_error_and_runs_nothing(
    shop: Path, tmp_path: Path, change: dict[str, str]
) -> None:
    with pytest.raises(NodeLacksProject):
        run(enter(node(tmp_path), replaced(describe(shop), change)))


def test_a_link_that_leads_out_of_the_checkout_is_refused(shop: Path, tmp_path: Path) -> None:
    (shop / "out").symlink_to("/")
    commit(shop)
    git(shop, "push", "--quiet")
    source = replace(describe(shop), inside="out/tmp")
    with pytest.raises(NodeLacksProject, match="leads out"):
        run(enter(node(tmp_path), source))


def test_no_hook_and_no_filter_of_a_project_runs_on_a_node(shop: Path, tmp_path: Path) -> None:
    mark = tmp_path / "pwned"
    (shop / ".gitattributes").write_text("* filter=evil\n")
    (shop / ".gitconfig").write_text(f'[filter "evil"]\n\tsmudge = touch {mark}\n')
    (shop / "post-checkout").write_text(f"#!/bin/sh\ntouch {mark}\n")
    (shop / "post-checkout").chmod(0o755)
    commit(shop)
    git(shop, "push", "--quiet")

    async def main() -> None:
        async with held(node(tmp_path), describe_later) as [folder]:
            assert (folder / ".gitattributes").exists()

    describe_later = describe(shop)
    run(main())
    assert not mark.exists()


def test_a_node_without_the_folder_reports_which_one(tmp_path: Path) -> None:
    source = ProjectSource("path", str(tmp_path / "missing"))
    with pytest.raises(NodeLacksProject, match=f"there is no folder {tmp_path / 'missing'}"):
        run(enter(node(tmp_path), source))
    copied = ProjectSource("working_dir", "/srv/shop", "api")
    with pytest.raises(NodeLacksProject, match="no working_dir"):
        run(enter(node(tmp_path), copied))
    (tmp_path / "copy" / "api").mkdir(parents=True)
    projects = NodeProjects(tmp_path / "node", ENVIRON, tmp_path / "copy")

    async def main() -> None:
        async with held(projects, copied) as [folder]:
            assert folder == tmp_path / "copy" / "api"

    run(main())


def test_an_error_of_the_task_is_not_the_nodes_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with node(tmp_path).hold(ProjectSource("path", str(tmp_path))):
            raise OSError("of the task")

    with pytest.raises(OSError, match="of the task"):
        run(main())


def test_an_agent_that_accepts_edits_can_write_in_a_checkout(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    """Below a folder `.claude` Claude Code asks for permission to edit (2.1.332)."""
    pool_project.agent("editor", permissionMode="acceptEdits")
    make_repository(pool_project.root)
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "remote.git")
    git(pool_project.root, "remote", "add", "origin", str(tmp_path / "remote.git"))
    git(pool_project.root, "push", "--quiet", "origin", "main")
    source = describe(pool_project.root)

    async def main() -> None:
        environ = pool_project.environment("")
        async with held(NodeProjects(checkouts_folder(environ), environ), source) as [folder]:
            file = folder / "new.txt"

            def write(request: ModelRequest) -> ModelReply:
                if request.tool_results:
                    return ModelReply("done")
                call = ToolUseBlock("Write", {"file_path": str(file), "content": "hello"})
                return ModelReply([call])

            async with pool_project.real(write, project_dir=folder) as (pool, _):
                result = await pool.invoke("editor", "write")
            assert result.denied == ()
            assert file.read_text() == "hello"

    run(main())
