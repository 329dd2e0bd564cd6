"""A pipeline's folder in diffusers' layout: its parts loaded, hashed and copied, none of its code.

A base model comes from strangers. Only safetensors are loaded, since a pickle can run a program,
and a folder that brings code of its own is refused. Each component is loaded only when asked for,
so a job whose latents and prompt embeddings are cached never reads the VAE or a text encoder.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from arena.atomic import replacing
from training.families.process import ModelError

KEPT = (".json", ".txt", ".model", ".jinja", ".safetensors")


class PipelineFolder:
    """The components of one pipeline on disk; `trained` is the one that is trained."""

    pipeline: ClassVar[str]
    """Name of diffusers' pipeline class."""
    trained: ClassVar[str] = "transformer"
    """The component that is trained."""

    def __init__(self, folder: Path, memo: Path | None = None) -> None:
        """`memo` is a folder in which digests of files are remembered.

        Raises ModelError for a folder that lacks a configuration.
        """
        self.folder, self._memo = folder, memo
        self.index = config_of(folder, "model_index.json")
        self.config = config_of(folder / self.trained)
        self.vae_config = config_of(folder / "vae")
        self._digests: dict[str, str] = {}

    @property
    def texts(self) -> tuple[str, ...]:
        """Tokenizers and text encoders, which decide the prompt embeddings."""
        return tuple(name for name in self.index if name.startswith(("tokenizer", "text_encoder"))
                     and (self.folder / name).is_dir())  # fmt: skip

    @property
    def components(self) -> tuple[str, ...]:
        """All that makes the base model what it is."""
        return (self.trained, "vae", "scheduler", *self.texts)

    def class_of(self, component: str) -> Any:
        """Return diffusers' or transformers' class of a component, by the pipeline's own index."""
        import diffusers
        import transformers

        named = self.index.get(component)
        library, name = named if isinstance(named, list) and len(named) == 2 else ("", "")
        known = {"diffusers": diffusers, "transformers": transformers}.get(str(library))
        kind = getattr(known, str(name), None)
        if not isinstance(kind, type):
            raise ModelError(f"model.base: {self.folder}/model_index.json names no {component}")
        return kind

    def loaded(self, component: str, dtype: torch.dtype, **how: Any) -> Any:
        """Load one component in `dtype`. Raises ModelError with what to do where it does not."""
        kind, folder = self.class_of(component), self.folder / component
        how |= {"local_files_only": True, "use_safetensors": True}
        try:
            with quiet():
                return kind.from_pretrained(folder, dtype=dtype, **how)
        except (OSError, ValueError, RuntimeError) as error:
            if any(folder.glob("*.fp16.*")):
                raise ModelError(
                    f"model.base: {folder} holds weights of the variant fp16 only: load the "
                    'pipeline once with variant="fp16", save it with save_pretrained, and name '
                    "that folder"
                ) from error
            raise ModelError(
                f"model.base: {folder} does not load as {kind.__name__}: {error}"
            ) from error

    def assembled(self, loads: Sequence[str], *, dtype: Any = None, **parts: Any) -> Any:
        """Return the pipeline with the components `loads` from disk, `parts` as they are, no other.

        Without its other components it checks no image for safety and encodes what it can.
        """
        import diffusers

        kind = getattr(diffusers, self.pipeline)
        absent = {name: None for name, value in self.index.items()
                  if isinstance(value, list) and name not in loads}  # fmt: skip
        how = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
        try:
            with quiet():
                pipe = kind.from_pretrained(self.folder, **{**absent, **parts}, dtype=dtype, **how)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise ModelError(
                f"model.base: {self.folder} does not load as {self.pipeline}: {error}"
            ) from error
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def empty(self, component: str, dtype: torch.dtype) -> Any:
        """Return a component without values, on the `meta` device: its shapes only, frozen."""
        kind = self.class_of(component)
        with torch.device("meta"), quiet():
            model = kind.from_config(kind.load_config(self.folder / component))
        return torch.nn.Module.to(model, dtype).eval().requires_grad_(False)

    def text_weights(self, component: str) -> int:
        """Count the weights of a text encoder from its configuration."""
        import transformers

        kind, path = self.class_of(component), self.folder / component
        config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
        with torch.device("meta"), quiet():
            return sum(p.numel() for p in kind._from_config(config).parameters())

    def digest(self, *components: str) -> str:
        """SHA-256 over the files of some components: equal exactly where these are equal."""
        for component in components:
            if component not in self._digests:
                paths = files_of(self.folder / component)
                files = [f"{path.name} {file_digest(path, self._memo)}" for path in paths]
                self._digests[component] = "\n".join([component, *files])
        text = "\n".join(self._digests[component] for component in components)
        return hashlib.sha256(text.encode()).hexdigest()

    def save_pipeline(self, denoiser: Any, folder: Path) -> None:
        """Write a whole pipeline: the trained part beside copies of the base's other ones."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.index:
            if name != self.trained and (self.folder / name).is_dir():
                (folder / name).mkdir()
                for path in files_of(self.folder / name):
                    shutil.copyfile(path, folder / name / path.name)
        shutil.copyfile(self.folder / "model_index.json", folder / "model_index.json")
        denoiser.to(memory_format=torch.contiguous_format).save_pretrained(folder / self.trained)


def refuse_code(folder: Path, index: dict[str, Any]) -> None:
    """Raise ModelError for a pipeline that brings code: modules, files of Python, or pickles."""
    from diffusers import pipelines

    own = [str(path.relative_to(folder)) for path in sorted(folder.glob("*.py"))]
    if not isinstance(index.get("_class_name"), str):
        own.append(f"the pipeline's class {index.get('_class_name')}")
    for name, value in index.items():
        if isinstance(value, list) and not name.startswith("_"):
            refuse_pickles(folder / name, [path.name for path in (folder / name).glob("*")])
            own += [str(path.relative_to(folder)) for path in sorted((folder / name).glob("*.py"))]
            module = value[0] if value else None
            known = module in (None, "diffusers", "transformers")
            if not known and not hasattr(pipelines, str(module)):
                own.append(f"{name} from {module}")
    if own:
        raise ModelError(
            f"model.base: {folder} brings code of its own ({', '.join(own[:4])}), which is not "
            "run: name a pipeline that diffusers and transformers load by themselves"
        )


def refuse_pickles(where: Path | str, names: Sequence[str]) -> None:
    """Raise ModelError where a component's files have weights in pickles (.bin) and no others."""
    kinds = {Path(name).suffix for name in names}
    if ".bin" in kinds and ".safetensors" not in kinds:
        raise ModelError(
            f"model.base: {where} holds its weights as a pickle (.bin), which can run a program "
            "when it is read: load the pipeline once where that may happen, save it with "
            "save_pretrained, and name that folder"
        )


def config_of(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """Read a component's configuration."""
    path = folder / name
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"model.base: {path} cannot be read: {error}") from error


def plain_files(names: Sequence[str]) -> list[str]:
    """Return which of a component's files are read: configuration, vocabulary, weights.

    Weights of a variant (`model.fp16.safetensors`) are not.
    """
    kept = [name for name in names if Path(name).suffix in KEPT]
    return [name for name in kept if not (name.endswith(".safetensors") and "." in Path(name).stem)]


def files_of(folder: Path) -> list[Path]:
    """Return the files of a component that are read."""
    return [folder / name for name in plain_files(sorted(path.name for path in folder.glob("*")))]


def file_digest(path: Path, memo: Path | None) -> str:
    """SHA-256 of a file; with a folder `memo` it is computed once for each state of the file."""
    state = path.stat()
    key = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"
    note = memo / hashlib.sha256(key.encode()).hexdigest() if memo else None
    if note and note.exists():
        return note.read_text()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if note:
        with replacing(note) as aside:  # another process may read it at any moment
            aside.write_text(digest)
    return digest


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within, diffusers and transformers show no progress bars and log errors only."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    kinds = (of_diffusers, of_transformers)
    levels = [kind.get_verbosity() for kind in kinds]
    for kind in kinds:
        kind.set_verbosity_error()
        kind.disable_progress_bar()
    try:
        yield
    finally:
        for kind, level in zip(kinds, levels, strict=True):
            kind.set_verbosity(level)
            kind.enable_progress_bar()
