"""Which parts of an environment `show` masks."""

from __future__ import annotations

import pytest

from agent_pool.claude.masking import masked_value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GITHUB_TOKEN", "x"),
        ("PGPASSWORD", "hunter"),
        ("MYSQL_PWD", "hunter"),
        ("REDISCLI_AUTH", "hunter"),
        ("SLACK_WEBHOOK_URL", "https://hooks.example.com/services/a/b"),
        ("GPG_PRIVATE", "x"),
        ("ANYTHING", "-----BEGIN RSA PRIVATE KEY-----\nabc"),
    ],
)
def test_a_value_whose_name_or_form_is_secret_is_masked(name: str, value: str) -> None:
    assert masked_value(name, value) == "…"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("postgres://me:hunter2@db/shop", "postgres://…@db/shop"),
        ("https://api.example.com/v1?sig=abc&x=1", "https://api.example.com/v1?sig=…&x=…"),
        ("https://discord.com/api/webhooks/12345/aB3dE6gH9jK2mN5p", None),
        ("sk-ant-api03-aB3dE6gH9jK2mN5p", "sk-ant-api03-…"),
        ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "ghp_…"),
        ("AKIAIOSFODNN7EXAMPLE", "…"),
        ("wJalrXUtnFEMIbPxRfiCYzKq", "…"),
        ("host=db password='hunter two' ssl=on", "host=db password=… ssl=on"),
    ],
)
def test_a_secret_is_found_by_its_look_under_any_name(value: str, shown: str | None) -> None:
    expected = shown or "https://discord.com/api/webhooks/12345/…"
    assert masked_value("ANYTHING", value) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PWD", "/home/me/shop"),
        ("OLDPWD", "/home/me"),
        ("PATH", "/usr/lib/python3.11/site-packages:/home/me/.local/bin"),
        ("ANTHROPIC_MODEL", "claude-opus-4-8-20260115"),
        ("ANTHROPIC_BASE_URL", "http://127.0.0.1:8080/v1/messages"),
        ("LANG", "en_US.UTF-8"),
        ("TERM_PROGRAM", "AppleTerminalApplication"),
        ("COLUMNS", "12345678901234"),
    ],
)
def test_values_that_are_no_secrets_are_shown(name: str, value: str) -> None:
    assert masked_value(name, value) == value
