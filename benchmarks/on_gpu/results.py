"""The results file: what parts have measured so far, on which machine, with which versions."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SCHEMA = 1
DRY_RUN = "dry-run"


@dataclass
class Results:
    """One visit to a machine, part by part. Saved after each."""

    path: Path
    about: dict[str, Any]
    """Machine, driver, versions, model, budget; ``dry_run`` True where nothing is a measurement."""
    parts: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def opened(cls, folder: Path, gpu: str, about: dict[str, Any], *, fresh: bool) -> Results:
        """The newest file of this GPU, to go on with, or a new one.

        A file of another machine, other versions or another model is not gone on with.
        """
        slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
        for path in sorted(folder.glob(f"{slug}-*.json"), reverse=True):
            known = cls.read(path)
            same = all(known.about.get(key) == about[key] for key in about)
            if same and not fresh:
                return known
        stem = f"{slug}-{datetime.now(UTC):%Y-%m-%d}"
        path, number = folder / f"{stem}.json", 2
        while path.exists():
            path, number = folder / f"{stem}-{number}.json", number + 1
        return cls(path, about)

    @classmethod
    def read(cls, path: Path) -> Results:
        """From a file; raises ValueError where it is none."""
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.get("schema") != SCHEMA:
            raise ValueError(f"{path}: results of schema {values.get('schema')!r}, not {SCHEMA}")
        return cls(path, values["about"], values["parts"])

    def keep(self, name: str, figures: dict[str, Any], seconds: float) -> None:
        """Enter a part and save."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.parts[name] = {"finished": now, "seconds": round(seconds, 1), **figures}
        self.keep_about()

    def keep_about(self) -> None:
        """Save what is there, also before the first part."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        values = {"schema": SCHEMA, "about": self.about, "parts": self.parts}
        text = json.dumps(values, indent=1, allow_nan=False)
        part = self.path.with_suffix(".part")
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(self.path)

    @property
    def dry(self) -> bool:
        """Whether nothing here is a measurement."""
        return bool(self.about["dry_run"])

    @property
    def headline(self) -> Headline:
        """The figures that count, as far as they are there."""
        return Headline.of(self)


@dataclass(frozen=True)
class Headline:
    """The last line of the benchmark. None: not measured yet (in a dry run: never)."""

    tokens_per_s: dict[str, float | None]
    """Decode, by policy, and transformers with Accelerate's offloading."""
    vs_accelerate: float | None
    vs_released: float | None
    """The best of ours against ``fiddler_released``."""
    fraction_of_bound: float | None
    fidelity_mape_percent: float | None

    @classmethod
    def of(cls, results: Results) -> Headline:
        """Read off the parts."""
        decode = results.parts.get("decode", {}).get("policies", {})
        speeds = {name: found["tokens_per_s"] for name, found in decode.items()}
        accelerate = results.parts.get("accelerate", {}).get("tokens_per_s")
        fidelity = results.parts.get("fidelity", {}).get("mape_percent")
        ours = {name: speed for name, speed in speeds.items() if name != "fiddler_released"}
        best = max(ours, key=ours.__getitem__) if ours else None
        released = speeds.get("fiddler_released")
        if results.dry:
            nothing: dict[str, float | None] = dict.fromkeys([*speeds, "accelerate"])
            return cls(nothing, None, None, None, None)
        return cls(
            {**speeds, "accelerate": accelerate},
            None if best is None or not accelerate else round(ours[best] / accelerate, 2),
            None if best is None or not released else round(ours[best] / released, 2),
            None if best is None else decode[best]["fraction_of_bound"],
            fidelity,
        )

    def to_json(self, results: Results) -> str:
        """One line."""
        values = {**asdict(self), "dry_run": results.dry, "parts": list(results.parts)}
        return json.dumps(values, allow_nan=False)
