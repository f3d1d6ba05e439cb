"""Publishing: the real client against a small Hub on loopback; what goes wrong is told and can be repeated."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import READER, STRANGER, WRITER, Hub, Repository, serving
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars

from distill import publish
from distill.publish import PublishError, demand_free, demand_login, explained, listing, upload
from distill.recipe import Publish

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # between the client and its httpx
REPO = "me/student"
SETTINGS = Publish(repo=REPO)
CARD = "---\nlicense: apache-2.0\n---\n# A card\n"


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    """A Hub that the client in this process talks to, with a token that may write to `me/`."""
    disable_progress_bars()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its retries
    with serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        places = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + places[1] + places[2])
        yield hub


@pytest.fixture
def folder(tmp_path) -> Path:
    """What is published: a card, a mark, weights large enough for LFS, a file in a folder."""
    folder = tmp_path / "student"
    (folder / "onnx").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "recipe.yaml").write_text("recipe: test\n")
    for name, size in (("model.safetensors", 90_000), ("heads.safetensors", 40_000), ("onnx/model.onnx", 70_000)):
        (folder / name).write_bytes(hashlib.sha256(name.encode()).digest() * (size // 32))
    return folder


def bits(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in publish.contents(folder)}


def test_every_file_arrives_and_the_place_is_told(hub, folder):
    said = []
    upload({REPO: folder}, SETTINGS, said.append)
    assert hub.repositories[REPO].files == bits(folder) | {".gitattributes": b""}
    assert not hub.repositories[REPO].private
    assert said == [f"published: {hub.address}/{REPO}"]


def test_private_is_private(hub, folder):
    upload({REPO: folder}, Publish(repo=REPO, private=True), print)
    assert hub.repositories[REPO].private


def test_publishing_again_sends_no_weights_again(hub, folder):
    upload({REPO: folder}, SETTINGS, print)
    (folder / "README.md").write_text(CARD + "More.\n")
    before = len(hub.asked)
    upload({REPO: folder}, SETTINGS, print)
    assert not [line for line in hub.asked[before:] if line.startswith("PUT")]
    assert hub.repositories[REPO].files["README.md"].endswith(b"More.\n")


def test_a_connection_lost_for_good_is_told_and_the_second_try_finishes(hub, folder):
    before = bits(folder)
    hub.broken_puts = 10**6
    with pytest.raises(PublishError, match="broke off") as told:
        upload({REPO: folder}, SETTINGS, print)
    assert "the same command goes on" in str(told.value) and len(str(told.value).splitlines()) <= 3
    assert hub.repositories[REPO].commits == 0 and bits(folder) == before
    hub.broken_puts = 0
    upload({REPO: folder}, SETTINGS, print)
    assert hub.repositories[REPO].files == before | {".gitattributes": b""}


def test_a_lost_moment_of_connection_is_not_even_noticed(hub, folder):
    hub.broken_puts = 1
    upload({REPO: folder}, SETTINGS, print)
    assert hub.repositories[REPO].commits == 1


def test_what_arrived_before_the_break_is_not_sent_again(hub, folder, monkeypatch):
    def refuse(self, body: bytes, repo: str, revision: str) -> None:
        self.say(503, {"error": "down for maintenance"})

    whole = hub_routes(monkeypatch, "commit", refuse)
    with pytest.raises(PublishError, match=r"broke off.*503"):
        upload({REPO: folder}, SETTINGS, print)
    assert hub.received() == 3
    whole()
    before = len(hub.asked)
    upload({REPO: folder}, SETTINGS, print)
    assert not [line for line in hub.asked[before:] if line.startswith("PUT")]
    assert hub.repositories[REPO].files == bits(folder) | {".gitattributes": b""}


def hub_routes(monkeypatch, name: str, reply: Callable) -> Callable[[], None]:
    """Answer one kind of question by `reply`, until the returned function is called."""
    import hub_server

    usual = list(hub_server.ROUTES)
    at = next(i for i, route in enumerate(usual) if route[2].__name__ == name)
    monkeypatch.setattr(hub_server, "ROUTES", [*usual[:at], (*usual[at][:2], reply), *usual[at + 1 :]])
    return lambda: monkeypatch.setattr(hub_server, "ROUTES", usual)


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        (STRANGER, REPO, r"does not know this token \(401\).*hf auth login"),
        (READER, REPO, r"may not write to me/student \(403\).*\n.*publish.repo="),
        (WRITER, "someone/student", r"may not write to someone/student \(403\)"),
    ],
)
def test_a_token_that_does_not_do_is_told(hub, folder, monkeypatch, token, repo, message):
    monkeypatch.setenv("HF_TOKEN", token)
    before = bits(folder)
    with pytest.raises(PublishError, match=message) as told:
        upload({repo: folder}, SETTINGS, print)
    assert token not in str(told.value) and len(str(told.value).splitlines()) <= 3
    assert bits(folder) == before and not hub.repositories
    monkeypatch.setenv("HF_TOKEN", WRITER)
    upload({REPO: folder}, SETTINGS, print)
    assert hub.repositories[REPO].commits == 1


def test_no_token_and_a_wrong_one_are_told_before_the_work(hub, monkeypatch):
    demand_login()
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    with pytest.raises(PublishError, match="401"):
        demand_login()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishError, match="there is no token: run `hf auth login`"):
        demand_login()


def test_a_name_that_holds_another_model_is_left_alone(hub, folder):
    hub.repositories[REPO] = Repository(private=False, files={"model.bin": b"theirs"})
    with pytest.raises(PublishError, match=r"me/student is taken: it holds 1 files and no recipe.yaml"):
        upload({REPO: folder}, SETTINGS, print)
    assert hub.repositories[REPO].files == {"model.bin": b"theirs"}


def test_no_file_of_an_earlier_publication_stays_beside_new_ones(hub, folder):
    """As with publish.onnx=false after it was true; what was added by hand stays."""
    upload({REPO: folder}, SETTINGS, print)
    hub.repositories[REPO].files["notes/model.onnx"] = b"by hand"
    (folder / "onnx" / "model.onnx").unlink()
    upload({REPO: folder}, SETTINGS, print)
    assert hub.repositories[REPO].files == bits(folder) | {".gitattributes": b"", "notes/model.onnx": b"by hand"}


def test_another_student_is_not_overwritten_and_the_same_one_is(hub, folder):
    upload({REPO: folder}, SETTINGS, print)
    before = dict(hub.repositories[REPO].files)
    recipe = folder / "recipe.yaml"
    recipe.write_text("recipe: test\nname: x\npublish: {private: true}\nevaluate: {batch: 7}\n")
    demand_free(REPO, recipe, Publish())
    for other, said in (("recipe: test\nseed: 3\nfit: {steps: 7}\n", "fit.steps, seed"), ("new: 1\n", "their version")):
        recipe.write_text(other)
        with pytest.raises(PublishError, match=rf"holds another student; they differ in {said}\n.*publish.repo="):
            upload({REPO: folder}, SETTINGS, print)
    assert hub.repositories[REPO].files == before
    demand_free("me/nothing", recipe, Publish(private=True))
    upload({REPO: folder}, replace(SETTINGS, replace=True), print)
    assert hub.repositories[REPO].files["recipe.yaml"] == b"new: 1\n"


def test_what_shall_be_private_never_goes_to_a_public_repository(hub, folder):
    hub.repositories[REPO] = Repository(private=False)
    with pytest.raises(PublishError, match="public already"):
        upload({REPO: folder}, Publish(repo=REPO, private=True), print)
    assert hub.repositories[REPO].commits == 0


def test_no_network_is_told(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")  # nothing listens there
    before = bits(folder)
    with pytest.raises(PublishError, match=r"http://127.0.0.1:1 broke off") as told:
        upload({REPO: folder}, SETTINGS, print)
    assert len(str(told.value).splitlines()) <= 3 and bits(folder) == before


def test_a_token_in_what_the_client_says_is_not_passed_on(hub):
    """As when its HTTP library refuses a header and quotes it."""
    with pytest.raises(PublishError, match="<token>") as told, explained(REPO):
        raise ValueError(f"Illegal header value b'Bearer {WRITER}'")
    assert WRITER not in str(told.value)


def test_what_the_hub_has_against_a_card_is_told(hub, folder):
    (folder / "README.md").write_text("---\nlicense: my-own\nlanguage: [English]\n---\n# A card\n")
    wanted = (
        r"the Hub refused me/student: Invalid metadata.*\n- license 'my-own'\n- language \['English'\]\nnothing was"
    )
    with pytest.raises(PublishError, match=wanted):
        upload({REPO: folder}, SETTINGS, print)


def test_the_list_names_every_file_and_its_size(folder):
    text = listing({REPO: folder})
    assert text.startswith(f"me/student: 5 files, 0.20 MB in {folder}")
    for name, content in bits(folder).items():
        assert any(line.split()[:2] == [name, f"{len(content):,}"] for line in text.splitlines())
