"""From a command line, or a file, to a recipe: what is given where, what wins, and what can be wrong with it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from textwrap import fill
from typing import Any, cast, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ValidationError

from distill.data.corpora import speaking_of
from distill.data.settings import CORPORA, Data
from distill.encoders.family import Family
from distill.limits import RecipeError, listed, nearest
from distill.recipe import FUSED, STAGES, Distill, Recipe
from distill.upstreams import ROWS, resolve

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
KINDS = {int: "an int", float: "a number", str: "a text", bool: "true or false"}
LABELS = frozenset({"recipe", "scale", "name", "runs", "stages", "student.preset"})
RHYTHM = frozenset({"fit.save_every", "fit.log_every", "distill.save_every", "distill.log_every"})
BESIDE = frozenset({"evaluate.rows", "evaluate.students", "report.runs"})  # what is shown of this run and beside it
PLACES = frozenset({"distill.cache", "evaluate.cache", "data.workers", "teacher.shard"})  # where and by whom, not what
HARMLESS = LABELS | RHYTHM | BESIDE | PLACES  # a difference in these keys changes no result
AFTERWARDS = ("publish.", "finetune.")  # sections of what is made from a finished run; each result keeps its settings


def load(argv: Sequence[str], families: Mapping[str, Family], folder: Path = RECIPES) -> Recipe:
    """The recipe of a command line: its `key=value` over the recipe's file, the scale's file, the defaults.

    `families` are the upstreams there are. Raises RecipeError.
    """
    given = arguments(argv)
    name, science = find(given.pop("recipe", ""), families, folder)
    scale = given.get("scale", science.get("scale", "mini"))
    if science.get("scale", scale) != scale:
        written = science["scale"]
        raise RecipeError(f"the recipe file is for scale={written}, scale={scale} cannot change it; leave scale= out")
    scales = menu(folder / "scales")
    listed("scale", scale, scales)
    sizes = preset(given.get("student.preset", science.get("student.preset", "")), folder)
    order = (science, sizes) if "student.preset" in given else (sizes, science)
    tree = OmegaConf.structured(Recipe)
    for values in ({"recipe": name}, read(scales[scale]), *order, given):
        for key, value in values.items():
            assign(tree, key, value)
    return complete(built(tree), families, list(given))


def preset(name: str, folder: Path) -> dict[str, Any]:
    """The sizes of a ready-made student; nothing for no name."""
    if not name:
        return {}
    presets = menu(folder / "students")
    listed("student.preset", name, presets)
    return read(presets[name])


def save(recipe: Recipe, path: Path) -> None:
    """Write a recipe that `recipe=<path>` runs again; the file appears whole or not at all."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text(recipe))
    unfinished.replace(path)


def read_saved(path: Path) -> Recipe:
    """The whole recipe that `save` wrote. Raises RecipeError where it is another version's."""
    tree = OmegaConf.structured(Recipe)
    for key, value in read(path).items():
        assign(tree, key, value)
    return built(tree)


def built(tree: DictConfig) -> Recipe:
    """The recipe of a tree, its values within their limits."""
    for name, corpus in tree.corpora.items():
        with speaking_of(name):
            OmegaConf.to_object(corpus)
    return cast(Recipe, OmegaConf.to_object(tree))


def text(recipe: Recipe) -> str:
    """The whole recipe as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(recipe))


def changed(old: Recipe, new: Recipe) -> list[str]:
    """The dotted keys in which two recipes differ, but for those that change no result."""
    before, after = flat(asdict(old)), flat(asdict(new))
    keys = sorted(before.keys() | after.keys())
    weighty = [key for key in keys if key not in HARMLESS and not key.startswith(AFTERWARDS)]
    return [key for key in weighty if before.get(key) != after.get(key)]


def usage(families: Mapping[str, Family], folder: Path = RECIPES) -> str:
    """How to call the command: its recipes, scales, stages, families and keys."""
    sections = {name: kind for name, kind in get_type_hints(Recipe).items() if is_dataclass(kind)}
    lines = [
        "usage: accelerate launch distill.py recipe=<recipe> [key=value ...] [--show] [--plan]",
        "recipe=",
        *(entry(name, summary(path)) for name, path in menu(folder).items()),
        "  or a+b of these families; or path/to/recipe.yaml",
        *(entry(f"{name}:", " ".join(families[name].sizes)) for name in sorted(families)),
        "scale= (each takes the size of its name; teacher.checkpoints.<family>=<size> takes another)",
        *(entry(name, summary(path)) for name, path in menu(folder / "scales").items()),
        "student.preset=",
        *(entry(name, summary(path)) for name, path in menu(folder / "students").items()),
        f"stages=[{','.join(STAGES)}]   name=<run folder>   runs=<where run folders lie>   seed=0",
        *(entry(f"{name}.", " ".join(get_type_hints(kind))) for name, kind in sections.items()),
        entry("corpora.<name>.", "as data.: another corpus; evaluate.corpora.<task>=<name> scores a task on it"),
        "--show prints the whole recipe and stops, --plan what the run will take: memory, disk, hours",
    ]
    return "\n".join(lines)


def entry(name: str, words: str) -> str:
    """A name and what is said of it, in two columns."""
    column = max(22, len(name) + 4)
    return fill(f"  {name:<{column - 2}}{words}", 118, subsequent_indent=" " * 22, break_on_hyphens=False)


def summary(path: Path) -> str:
    """The first comment line of a recipe or scale."""
    return path.read_text().partition("\n")[0].removeprefix("#").strip()


def cost(recipe: Recipe, families: Mapping[str, Family], folder: Path = RECIPES) -> str:
    """What the recipe's file says that it costs; nothing for a recipe of no file, or another than the file's."""
    path = menu(folder).get(recipe.recipe)
    if path is None or changed(recipe, load([f"recipe={recipe.recipe}"], families, folder)):
        return ""
    lines = [line.removeprefix("# cost:").strip() for line in path.read_text().splitlines() if "# cost:" in line]
    return lines[0] if lines else ""


def menu(folder: Path) -> dict[str, Path]:
    """The recipes, or scales, of a folder by name."""
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def arguments(argv: Sequence[str]) -> dict[str, Any]:
    """`key=value` words -> values by dotted key."""
    given = {}
    for word in argv:
        key, equals, value = word.partition("=")
        if not equals:
            raise RecipeError(f"cannot read {word!r}: every argument is key=value, such as recipe=wavlm+whisper")
        try:
            given |= flat({key: value if kind(key) is str else yaml.safe_load(value)})
        except yaml.YAMLError:
            raise RecipeError(f"cannot read the value of {word!r}; a list is written {key}=[a,b]") from None
    return given


def find(name: str, families: Collection[str], folder: Path) -> tuple[str, dict[str, Any]]:
    """A recipe's own name and what its file says, by dotted key; nothing for plain families."""
    ready = menu(folder)
    if not name:
        raise RecipeError(f"say which recipe: recipe=wavlm+whisper\nrecipes: {', '.join(ready)}")
    if name.endswith((".yaml", ".yml")):
        values = read(Path(name))
        return values.get("recipe", Path(name).stem), values
    parts = sorted(name.split("+"))  # fusion does not mind the order of its upstreams
    for candidate in (name, "+".join(parts)):
        if candidate in ready:
            return candidate, read(ready[candidate])
    for part in parts:
        if part not in families:
            whole = nearest(name, ready) or nearest(part, families)
            raise RecipeError(
                f"unknown recipe {name!r}: {part!r} is no family of upstreams{whole}\n"
                f"recipes: {', '.join(ready)}\n"
                f"or a+b of {', '.join(sorted(families))}; or a path that ends in .yaml"
            )
    return "+".join(parts), {}


def read(path: Path) -> dict[str, Any]:
    """The values in a YAML file by dotted key, each a key of the schema."""
    try:
        tree = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"cannot read {path}: {error}") from None
    if not isinstance(tree, DictConfig):
        raise RecipeError(f"{path} must hold key: value lines")
    values = flat(cast(dict, OmegaConf.to_container(tree, resolve=False)))
    try:
        for key in values:
            kind(key)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None
    return values


def flat(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings -> values by dotted key."""
    values = {}
    for key, value in tree.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return values


def kind(key: str) -> Any:
    """The type of a dotted key; RecipeError where the schema has none."""
    level, path = Recipe, ""
    for part in key.split("."):
        if level is str or not (is_dataclass(level) or get_origin(level) is dict):
            raise RecipeError(f"unknown key {key!r}: {path[:-1]} is one value, {path[:-1]}=...")
        names = get_type_hints(level) if is_dataclass(level) else {part: get_args(level)[1]}
        if part not in names:
            where = f"under {path[:-1]}" if path else "keys"
            raise RecipeError(f"unknown key {key!r}{elsewhere(part, names)}\n{where}: {', '.join(names)}")
        level, path = names[part], f"{path}{part}."
    return level


def elsewhere(part: str, names: Mapping[str, Any]) -> str:
    """A question that names the sections with this key, or else the nearest key."""
    homes = [f"{name}.{part}" for name, kind in names.items() if is_dataclass(kind) and part in get_type_hints(kind)]
    return f"; did you mean {' or '.join(homes)}?" if homes else nearest(part, names)


def assign(tree: DictConfig, key: str, value: Any) -> None:
    """Set a dotted key, its type checked."""
    want = kind(key)
    if is_dataclass(want):
        raise RecipeError(f"{key} is a section: {key}.{next(iter(get_type_hints(want)))}=...")
    if "${" in str(value):
        raise RecipeError(f"{key}: write the value itself, {value!r} is not looked up")
    if key.startswith("corpora."):
        make_room(tree.corpora, key.split(".")[1])
    section = OmegaConf.select(tree, key.rpartition(".")[0]) if "." in key else tree
    OmegaConf.set_readonly(section, False)  # a frozen dataclass gives a section that is read-only
    try:
        OmegaConf.update(tree, key, value)
    except ValidationError:
        raise RecipeError(f"{key} wants {described(want)}, got {value!r}") from None


def make_room(corpora: DictConfig, name: str) -> None:
    """A further corpus where there is none of this name: the published one that is called so, or a folder."""
    if name not in corpora:
        OmegaConf.set_readonly(corpora, False)
        corpora[name] = Data(corpus=name if name in CORPORA else "folder")


def described(kind: Any) -> str:
    """A type in words."""
    if kind in KINDS:
        return KINDS[kind]
    if get_origin(kind) is dict:
        return "one value for each name"
    return f"a list, each {KINDS[get_args(kind)[0]]}, such as [...]"


def complete(recipe: Recipe, families: Mapping[str, Family], given: Sequence[str]) -> Recipe:
    """Derive what was left empty, and hold what names an upstream to those there are; given: keys set by hand."""
    teacher = resolve(recipe, families)
    names = teacher.upstreams
    for section in ("families", "checkpoints", "depth"):
        for key in given:
            if key.startswith(f"teacher.{section}."):
                listed(f"teacher.{section}", key.removeprefix(f"teacher.{section}."), names)
        for name in vars(recipe.teacher)[section]:  # of a file too, which may speak of families that are left out
            if name not in (*names, *families):
                listed(f"teacher.{section}", name, names)
    demand_taught(recipe.distill, names)
    for row in recipe.evaluate.rows:
        listed("evaluate.rows", row, [*ROWS, *names])
    if recipe.student.front_end not in ("", "first"):
        listed("student.front_end", recipe.student.front_end, ["first", *names])
    if recipe.student.initialise:
        listed("student.initialise", recipe.student.initialise, names)
    return replace(recipe, teacher=teacher, name=recipe.name or f"{recipe.recipe}-{recipe.scale}")


def demand_taught(settings: Distill, upstreams: Sequence[str]) -> None:
    """RecipeError for a weight of no source, or of one that does not teach, and where no source has any.

    A single upstream is the only source, whose weight is beside nothing, as in cells of a study that share their words.
    """
    for name in settings.source_weights:
        listed("distill.source_weights", name, [FUSED, *upstreams])
        if len(upstreams) > 1 and name not in (taught := settings.taught(upstreams)):
            raise RecipeError(
                f"distill.source_weights.{name}: {name} does not teach with distill.supervise={settings.supervise}, "
                f"only {', '.join(taught)}; leave it out, or take distill.supervise=both"
            )
    settings.sources(upstreams)
