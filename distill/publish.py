"""To the Hub: folders become repositories, by its own client; what can go wrong there is said in a few lines."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from distill.limits import RecipeError
from distill.loading import changed, read_saved
from distill.places import unplaced
from distill.recipe import Publish

MARK = "recipe.yaml"  # every repository of ours holds it
EMPTY = {".gitattributes"}  # what the Hub puts into a new repository
MEASURING = ("evaluate.", "report.", "corpora.")  # sections of a recipe that make no other student
AT_TIMES = (  # files that not every repository of ours holds; what was added by hand is none of them
    "heads.safetensors",
    "onnx/model.onnx",
    "onnx/model_int8.onnx",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)


class PublishError(ValueError):
    """The Hub would not have it, or cannot be reached."""


def listing(folders: Mapping[str, Path]) -> str:
    """What would be sent: every repository with its files and their sizes."""
    lines = []
    for repo, folder in folders.items():
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in contents(folder)}
        lines.append(f"{repo}: {len(sizes)} files, {sum(sizes.values()) / 1e6:.2f} MB in {folder}")
        lines += [f"  {name:<32}{size:>12,} bytes" for name, size in sizes.items()]
    return "\n".join(lines)


def contents(folder: Path) -> list[Path]:
    """The files of a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def demand_login() -> None:
    """PublishError unless the Hub answers and knows who asks; to be called before hours of work."""
    with explained("the account"):
        if get_token() is None:
            raise LocalTokenNotFoundError
        HfApi().whoami()


def upload(folders: Mapping[str, Path], settings: Publish, say: Callable[[str], None]) -> None:
    """Send every folder to its repository, in one commit each; the token is the one `hf auth login` keeps, or HF_TOKEN.

    What the Hub has already is not sent again, so that a second call goes on after an interrupted one. The folders
    are only read. Files of ours that were there and are not sent are deleted. Raises PublishError.
    """
    for repo, folder in folders.items():
        with explained(repo):
            HfApi().create_repo(repo, private=settings.private or None, exist_ok=True)  # None: as by default
            demand_free(repo, folder / MARK, settings)
            words = "Publish with FuseDistill"
            HfApi().upload_folder(
                repo_id=repo, folder_path=folder, commit_message=words, delete_patterns=list(AT_TIMES)
            )
        say(f"published: {constants.ENDPOINT}/{repo}")


def demand_free(repo: str, recipe: Path, settings: Publish) -> None:
    """PublishError where the repository holds something else than the student of this recipe, or is too open.

    recipe: the file. A repository that is not there is free; settings.replace: and one of another student of ours.
    """
    with explained(repo):
        api = HfApi()
        if not api.repo_exists(repo):
            return
        there = api.model_info(repo)
        files = {file.rfilename for file in there.siblings or []} - EMPTY
        if files and MARK not in files:
            raise PublishError(
                f"{repo} is taken: it holds {len(files)} files and no {MARK}, so it was not published by this command\n"
                "choose another name: publish.repo=<user>/<name>"
            )
        if settings.private and not there.private:
            raise PublishError(
                f"{repo} is public already and publish.private=true cannot hide it\n"
                "make it private in its settings on the Hub, or choose another name"
            )
        if files and not settings.replace:
            demand_same(repo, recipe)


def demand_same(repo: str, recipe: Path) -> None:
    """PublishError where what the repository holds was made by a recipe that makes another student."""
    with TemporaryDirectory() as place:
        theirs = Path(HfApi().hf_hub_download(repo, MARK, local_dir=place))
        try:
            keys = changed(*(unplaced(read_saved(path)) for path in (theirs, recipe)))
        except RecipeError:
            keys = ["their version"]
    different = [key for key in keys if not key.startswith(MEASURING)]
    if different:
        raise PublishError(
            f"{repo} holds another student; they differ in {', '.join(different)}\n"
            "choose another name, publish.repo=<user>/<name>, or replace it, publish.replace=true; its history stays"
        )


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Whatever the client raises, as a PublishError without the token."""
    try:
        yield
    except PublishError:
        raise
    except Exception as error:  # its HTTP library, and so its exceptions, depend on the version of the client
        secret = get_token()
        said = explain(what, error)
        raise PublishError(said.replace(secret, "<token>") if secret else said) from error


def explain(what: str, error: Exception) -> str:
    """What happened, and what to do instead."""
    chain = list(causes(error))
    if any(isinstance(one, LocalTokenNotFoundError) for one in chain):
        return "the Hub needs to know you, and there is no token: run `hf auth login`, or set HF_TOKEN"
    if any(isinstance(one, OfflineModeIsEnabled) for one in chain):
        return "HF_HUB_OFFLINE=1 forbids to reach the Hub; unset it, or look first: publish.dry_run=true"
    answers = [one.response.status_code for one in chain if isinstance(one, HfHubHTTPError)]
    reason = f"{type(chain[-1]).__name__}: {first_lines(chain[-1], 1)}"
    if 401 in answers:
        return "the Hub does not know this token (401): run `hf auth login` again, or set another HF_TOKEN"
    if refused := {403, 404, 409}.intersection(answers):
        return (
            f"this token may not write to {what} ({refused.pop()}): someone else's name, or a token that only reads\n"
            "choose publish.repo=<your name>/<name>, or make a token that writes: https://hf.co/settings/tokens"
        )
    if any(400 <= answer < 500 for answer in answers):
        return f"the Hub refused {what}: {first_lines(error, 6) or reason}\nnothing was changed on this machine"
    return (
        f"sending {what} to {constants.ENDPOINT} broke off: {reason}\n"
        "nothing was changed on this machine; the same command goes on, and what has arrived is not sent again"
    )


def first_lines(error: Exception | BaseException, most: int) -> str:
    """What an error says, without empty lines."""
    return "\n".join([line for line in str(error).splitlines() if line.strip()][:most])


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it came from, and so on."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
