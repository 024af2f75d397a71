"""An auth file says exactly what is wrong with it, and quotes no token."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from lockstep_server.errors import LoadError
from lockstep_server.frontend import callers
from lockstep_server.frontend.callers import AuthFile, Caller, Credential, parse, token_digest

if TYPE_CHECKING:
    from pathlib import Path

SHA = hashlib.sha256(b"token").hexdigest()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[callers", "not valid TOML"),
        ("", "add a table"),
        ("[callers]", "add a table"),
        ("callers = 1", "add a table"),
        ("[callers.a]", "neither tokens nor certificates"),
        (f'[callers.a]\ntokens = ["{SHA}"]\ntoken = 1', "callers.a.token: unknown key"),
        (f'[callers."a b"]\ntokens = ["{SHA}"]', "letters"),
        ('[callers.a]\ntokens = ["hunter2"]', "callers.a.tokens[0]: expected the SHA-256"),
        ("[callers.a]\ntokens = [1]", "callers.a.tokens[0]"),
        (f'[callers.a]\ntokens = ["{SHA}"]\npermissions = ["root"]', "unknown permission 'root'"),
        (f'[callers.a]\ntokens = ["{SHA}"]\nmodels = []', "callers.a.models: empty"),
        (f'[callers.a]\ntokens = ["{SHA}"]\nslots = 0', "callers.a.slots"),
        (f'[callers.a]\ntokens = ["{SHA}"]\nslots = true', "callers.a.slots"),
        (f'[callers.a]\ntokens = ["{SHA}"]\nbytes = "1 MB"', "callers.a.bytes"),
        (f'[callers.a]\ntokens = ["{SHA}"]\nrequests_per_second = 0', "callers.a.requests_per_second"),
        (f'[callers.a]\ntokens = ["{SHA}"]\ntokens_per_second = inf', "callers.a.tokens_per_second"),
        (f'[callers.a]\ntokens = ["{SHA}"]\ntokens_per_second = nan', "callers.a.tokens_per_second"),
        (f'[callers.a]\ntokens = ["{SHA}"]\nexpires = 2027-01-01T00:00:00', "no time zone"),
        (f'[callers.a]\ntokens = ["{SHA}"]\nexpires = "soon"', "not a date"),
        (f'[callers.a]\ntokens = ["{SHA}"]\n[callers.b]\ntokens = ["{SHA}"]', "shares"),
        ('[callers.a]\ncertificates = ["x"]\n[callers.b]\ncertificates = ["x"]', "shares"),
        (f'anonymous = ["all"]\n[callers.a]\ntokens = ["{SHA}"]', "anonymous"),
    ],
)
def test_a_wrong_file_is_refused_with_its_key(text: str, words: str) -> None:
    with pytest.raises(LoadError) as caught:
        parse("auth.toml", text.encode())
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_credential_finds_its_caller() -> None:
    table = parse("a", f'[callers.a]\ntokens = ["{SHA.upper()}"]\ncertificates = ["svc.example"]'.encode())
    by_token = table.find(Credential(token_digest("token")))
    by_certificate = table.find(Credential(certificate=("other", "svc.example")))
    assert by_token == by_certificate
    assert by_token is not None
    assert by_token[0].name == "a"
    assert table.find(Credential(token_digest("tokens"))) is None
    assert table.find(Credential()) is None


def test_the_time_of_a_refusal_tells_nothing_of_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is looked up by a digest under a key that no caller knows, and compared in constant time."""
    compared = []

    def compare(known: bytes, shown: bytes) -> bool:
        compared.append((known, shown))
        return known == shown

    monkeypatch.setattr("lockstep_server.frontend.callers.hmac.compare_digest", compare)
    table = parse("a", f'[callers.a]\ntokens = ["{SHA}"]'.encode())
    digest = token_digest("token")
    assert table.find(Credential(digest)) is not None
    assert compared == [(digest, digest)]
    assert table.find(Credential(token_digest("tokens"))) is None
    monkeypatch.setattr(callers, "_KEY", bytes(32))
    assert table.find(Credential(digest)) is None
    assert len(compared) == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "auth.toml"
    path.write_text(f'[callers.a]\ntokens = ["{SHA}"]')
    path.chmod(mode)
    with pytest.raises(LoadError, match="chmod 600"):
        AuthFile(str(path))


def test_models_are_patterns_and_cover_the_step_wise_form() -> None:
    caller = Caller("a", models=("sentiment-*", "char"))
    assert caller.may_use("sentiment-bow")
    assert caller.may_use("char.step")
    assert not caller.may_use("translate")
    assert not caller.may_use("")
