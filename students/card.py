"""Model cards: what a checkpoint is, how to use it, what was measured, whose layers it learned under which licence."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from distill.data.published import ON_THE_HUB
from distill.data.settings import Data
from distill.encoders.waveform import Waveform
from distill.features import parameters
from distill.recipe import Recipe

CARDS = Path(__file__).parent / "cards"
TITLES = {  # of every task there is, with whatever heads
    "asr": "speech recognition",
    "pr": "phone recognition",
    "sid": "speaker identification",
    "sv": "speaker verification",
    "er": "speaking style",
    "lid": "spoken language",
    "ml-mono": "speech recognition in one language of ML-SUPERB",
    "ml-multi": "speech recognition in the languages of ML-SUPERB",
}
PIPELINES = dict.fromkeys(TITLES, "audio-classification")  # for sv the nearest that the Hub has
PIPELINES |= dict.fromkeys(("asr", "pr", "ml-mono", "ml-multi"), "automatic-speech-recognition")
PIPELINE = """from transformers import pipeline

print(pipeline("{pipeline}", model="{repo}")("speech.wav"))"""
XVECTOR = """from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

name = "{repo}"
extractor, model = AutoFeatureExtractor.from_pretrained(name), AutoModelForAudioXVector.from_pretrained(name)
voice = model(**extractor(audio, sampling_rate=16000, return_tensors="pt")).embeddings  # compare by their cosine"""
HUB_DATASETS = {name: corpus.hub.name for name, corpus in ON_THE_HUB.items()}
CORPORA = {
    "embedded": "FuseDistill's embedded corpus (speech made by espeak-ng)",
    "folder": "its maker's own recordings",
}
REHEARSAL = "A rehearsal, of no use: the upstreams had random weights, not those of the checkpoints named here."
UNKNOWN = "The licence of one of them is unknown here: find it out before you use or pass on this model."
TERMS = {  # licence -> what it asks for
    "cc-by-nc-4.0": "CC BY-NC 4.0: no commercial use; name its authors",
    "cc-by-nc-sa-4.0": "CC BY-NC-SA 4.0: no commercial use; name its authors; pass on under the same licence",
    "cc-by-sa-3.0": "CC BY-SA 3.0: name its authors; pass on under the same licence",
}


@dataclass(frozen=True)
class Facts:
    """What a card says besides what was measured."""

    recipe: Recipe
    architecture: str  # the student's class in transformers
    parameters: int
    layers: int  # transformer layers
    width: int
    rate: float  # frames per second
    group_norm: bool  # in the front end: padding matters to plain transformers
    languages: Sequence[str]  # of the training clips, as their corpus writes them
    licences: Mapping[str, str]  # family of an upstream -> the licence of its checkpoint
    binding: Sequence[str]  # those licences that no other of them covers


def facts_of(
    student: Waveform, recipe: Recipe, languages: Sequence[str], licences: Mapping[str, str], binding: Sequence[str]
) -> Facts:
    return Facts(
        recipe=recipe,
        architecture=type(student.model).__name__,
        parameters=parameters(student),
        layers=student.layers - 1,
        width=student.width,
        rate=student.grid.rate,
        group_norm=student.model.config.feat_extract_norm == "group",
        languages=languages,
        licences=licences,
        binding=binding,
    )


def student_card(
    facts: Facts,
    repo: str,
    result: Mapping[str, Any] | None = None,
    finetuned: Mapping[str, str] | None = None,
    *,
    onnx: bool = False,
) -> str:
    """`README.md` of the student. repo: where it will lie; result: evaluation.json; finetuned: task -> repository.

    onnx: whether the two ONNX files lie with it.
    """
    rows = result["rows"] if result else {}
    cells = rows["student"]["tasks"] if rows else {}
    results = [outcome(facts, f"{TITLES[task]}, probe on the frozen encoder", task, cells[task]) for task in cells]
    words = {
        "name": repo.rpartition("/")[2] if result else facts.recipe.name,
        "repo": repo,
        "facts": facts,
        "millions": f"{facts.parameters / 1e6:.2f}",
        "finetuned": [{"title": TITLES[task], "use": use(task, name)} for task, name in (finetuned or {}).items()],
        "onnx": onnx,
        "rows": table(rows) if rows else "",
        "measured_on": measured_on(facts.recipe, list(cells)),
    }
    return render("student.md", metadata(facts, repo, "feature-extraction", base_models(facts), results), facts, words)


def finetuned_card(facts: Facts, repo: str, result: Mapping[str, Any], task: str, student: str) -> str:
    """`README.md` of a fine-tuned model. repo: its repository; student: the encoder's; result: evaluation.json."""
    cell = result["finetuned"][task]
    words = {
        "student": student,
        "corpus": called(facts.recipe, task),
        "cell": cell,
        "millions": f"{cell['parameters'] / 1e6:.2f}",
        "title": TITLES[task],
        "code": (XVECTOR if task == "sv" else PIPELINE).format(repo=repo, pipeline=PIPELINES[task]),
    }
    speaks = replace(facts, languages=cell["languages"])
    data = metadata(speaks, repo, PIPELINES[task], [student], [outcome(facts, TITLES[task], task, cell)])
    return render("finetuned.md", data, facts, words)


def render(template: str, data: ModelCardData, facts: Facts, words: Mapping[str, Any]) -> str:
    """A card of `cards/`: its metadata, what all cards say, and `words`."""
    chosen = facts.recipe.teacher.checkpoints
    shared = {
        "name": data.model_name,
        "corpus": called(facts.recipe),
        "rehearsal": REHEARSAL if facts.recipe.teacher.weights == "random" else "",
        "stream": facts.recipe.distill.stream.name,
        "upstreams": [{"family": name, "checkpoint": chosen[name], "licence": facts.licences[name]} for name in chosen],
        "warning": warning(facts.binding),
    }
    return f"{ModelCard.from_template(data, template_path=str(CARDS / template), **(shared | dict(words)))}\n"


def metadata(
    facts: Facts, repo: str, pipeline: str, base_models: Sequence[str], results: Sequence[EvalResult]
) -> ModelCardData:
    """The head of a card as the Hub reads it; `model-index` is what was measured and nothing else."""
    licence, name = licence_of(facts.binding)
    heard = [dataset_of(facts.recipe.data), facts.recipe.distill.stream.name]
    return ModelCardData(
        model_name=repo.rpartition("/")[2],
        library_name="transformers",
        pipeline_tag=pipeline,
        license=licence,
        license_name=name,
        language=codes(facts.languages) or None,
        datasets=[name for name in heard if name and not is_folder(name)] or None,
        base_model=list(base_models) or None,
        # the Hub knows adapter, finetune, merge and quantized: of these a distilled student is a finetune
        base_model_relation="finetune" if base_models else None,
        tags=["speech", "distillation", "fusedistill", *facts.recipe.teacher.upstreams],
        metrics=sorted({result.metric_type for result in results}) or None,
        eval_results=list(results) or None,
    )


def licence_of(binding: Sequence[str]) -> tuple[str, str | None]:
    """What the Hub is told: the one licence that binds, or `other` and what that is called."""
    if "unknown" in binding:
        return "other", "unknown"
    return (binding[0], None) if len(binding) == 1 else ("other", "-and-".join(binding))


def warning(binding: Sequence[str]) -> str:
    """What the licences of the upstreams ask of whoever uses the model."""
    known = [TERMS.get(name, name) for name in binding if name != "unknown"]
    unknown = [UNKNOWN] if "unknown" in binding else []
    if len(known) == 1 and not unknown:
        return f"The strictest of them is {known[0]}."
    several = ["None of these licences covers the others, and all of them bind:"] if len(known) > 1 else []
    return " ".join([*unknown, *several, *(f"{terms}." for terms in known)])


def codes(languages: Sequence[str]) -> list[str]:
    """ISO 639 codes as the Hub takes them, without region or script; what is none, such as `English`, is left out."""
    bare = {re.split("[-_]", language.lower())[0] for language in languages}
    return sorted(code for code in bare if re.fullmatch("[a-z]{2,3}", code))


def dataset_of(data: Data) -> str:
    """The name on the Hub of what a corpus is read from, or a folder; empty for a corpus that the Hub does not have."""
    return data.hub.name or HUB_DATASETS.get(data.corpus, "") if data.corpus in ("hub", *HUB_DATASETS) else ""


def base_models(facts: Facts) -> list[str]:
    """Those upstreams that have a name on the Hub and were heard; a folder has none, a rehearsal hears none."""
    if facts.recipe.teacher.weights == "random":
        return []
    return [name for name in facts.recipe.teacher.checkpoints.values() if name.count("/") == 1 and not is_folder(name)]


def is_folder(name: str) -> bool:
    return Path(name).is_dir() or name.startswith((".", "~", "/"))


def outcome(facts: Facts, title: str, task: str, cell: Mapping[str, Any]) -> EvalResult:
    """One measured score as the Hub lists it."""
    corpus, dataset = facts.recipe.corpus_of(task), dataset_of(data_of(facts.recipe, task))
    return EvalResult(
        task_type=PIPELINES[task],
        task_name=title,
        dataset_type=corpus if is_folder(dataset) or not dataset else dataset,
        dataset_name=called(facts.recipe, task),
        dataset_config=task,  # or the Hub would take tasks of one type for one
        dataset_split="test",
        metric_type=cell["metric"],
        metric_name=f"{cell['metric'].upper()}, percent",
        metric_value=round(cell["value"], 2),
    )


def data_of(recipe: Recipe, task: str) -> Data:
    """The corpus that a task is scored on."""
    return recipe.corpora.get(recipe.evaluate.corpus(task), recipe.data)


def called(recipe: Recipe, task: str = "") -> str:
    """The corpus that a task is scored on, in words; no task: what fit and distill hear."""
    data = data_of(recipe, task) if task else recipe.data
    if data.corpus == "hub":
        return CORPORA["folder"] if is_folder(data.hub.name) else data.hub.name
    name = recipe.corpus_of(task) if task else data.corpus
    return CORPORA.get(name, name)


def measured_on(recipe: Recipe, tasks: Sequence[str]) -> str:
    """The corpora that these tasks are scored on, with the tasks of each where there are several."""
    corpora: dict[str, list[str]] = {}
    for task in tasks:
        corpora.setdefault(called(recipe, task), []).append(task.upper())
    if len(corpora) == 1:
        return next(iter(corpora))
    return ", ".join(f"{corpus} ({', '.join(own)})" for corpus, own in corpora.items())


def use(task: str, repo: str) -> str:
    """A fine-tuned model in one line."""
    if task == "sv":
        return f'`AutoModelForAudioXVector.from_pretrained("{repo}")`'
    return f'`pipeline("{PIPELINES[task]}", model="{repo}")`'


def table(rows: Mapping[str, Any]) -> str:
    """The rows of evaluation.json in Markdown."""
    cells = rows["student"]["tasks"]
    heads = [
        f"{task.upper()} {cell['metric']} {'-' if cell['lower_is_better'] else '+'}" for task, cell in cells.items()
    ]
    lines = [["row", *heads, "retention", "parameters", "MB", "RTF"], ["---"] * (len(heads) + 5)]
    for name, row in rows.items():
        kept = (row.get("retention") or {}).get("mean")
        scores = [f"{row['tasks'][task]['value']:.1f}" for task in cells]
        share = "" if kept is None else f"{kept:.2f}"
        size = f"{row['bytes'] / 1e6:.2f}" if "bytes" in row else ""
        lines.append([name, *scores, share, f"{row['parameters'] / 1e6:.2f} M", size, f"{row['real_time_factor']:.4f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
