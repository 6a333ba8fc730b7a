"""The GPUs that a job may choose from, found without CUDA: once it has looked at the devices, nothing hides them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from essential_sparsity.errors import UserError, first_line

VISIBLE = "CUDA_VISIBLE_DEVICES"
# Percent of a device.
WHOLE = 100
_ORDER = "CUDA_DEVICE_ORDER"
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Gpu:
    """A device.

    Attributes:
        name: What ``CUDA_VISIBLE_DEVICES`` is to call it.
        key: What it alone is called on this machine, however a user, CUDA or Slurm names it.
    """

    name: str
    key: str


@dataclass(frozen=True)
class Card:
    """A GPU as NVIDIA's driver lists it.

    Attributes:
        number: Its place on the bus, from 0.
        model: What it is sold as.
        uuid: Its name in the whole world.
        instances: The names of the parts that MIG divides it into; computing is done on these alone if there are any.
    """

    number: int
    model: str
    uuid: str
    instances: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """The names of what can be computed on."""
        return self.instances or (self.uuid,)


def visible_gpus(environment: Mapping[str, str]) -> list[Gpu]:
    """Return the devices that a process with this environment may use, each once.

    These are the ones that ``CUDA_VISIBLE_DEVICES`` names (a user's, or a scheduler's), or all that the machine has.
    Slurm's names are left as they are: they may count from the first device of its job, and its own variables say which
    of the machine these are. Other names become UUIDs where the driver's ``nvidia-smi`` is there to ask; numbers are
    those that it counts by.

    Raises:
        UserError: The driver does not answer; there is nothing to ask, and nothing is named; or numbers are not enough
            to name different GPUs, which CUDA numbers by their speed unless it is told not to.
    """
    named = environment.get(VISIBLE)
    if named is not None and "SLURM_JOB_ID" in environment:
        return _given_by_slurm(_names(named), environment)
    cards = list_cards()
    if cards is not None:
        names = _all_of(cards) if named is None else _resolved(_names(named), cards, environment)
    elif named is not None:
        names = _names(named)
    else:
        raise UserError(
            where=f"resources.gpu of this rule, and {VISIBLE}",
            found="no nvidia-smi to ask for the machine's GPUs, and none that are named",
            expected="the NVIDIA driver with its nvidia-smi, or the names of the GPUs to use",
            mend=f"install the driver, set {VISIBLE}, or set gpu: 0 for the rule",
        )
    return [Gpu(name, name) for name in dict.fromkeys(names)]


def list_cards() -> list[Card] | None:
    """Return the GPUs of this machine, in the order of their numbers; None where there is no ``nvidia-smi``.

    Raises:
        UserError: It is there and fails. To go on without it would call devices by other names than other jobs do.
    """
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except FileNotFoundError:
        return None
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stdout", None) or getattr(error, "stderr", None)
        raise UserError(
            where="nvidia-smi -L, which lists the machine's GPUs",
            found=str(said).strip().splitlines()[0] if said else first_line(error),
            expected="a line for each GPU",
            mend="mend the NVIDIA driver (reboot after an update), or set gpu: 0 for the rule",
        ) from error
    return parse_cards(done.stdout)


def parse_cards(listing: str) -> list[Card]:
    """Read what ``nvidia-smi -L`` prints: a line for each GPU, and one below it for each part that MIG made of it."""
    cards: list[Card] = []
    for line in listing.splitlines():
        if card := re.match(r"GPU (\d+): (.*) \(UUID: ([^)]+)\)", line):
            cards.append(Card(int(card[1]), card[2], card[3]))
        elif cards and (part := re.match(r"\s+MIG .*\(UUID: ([^)]+)\)", line)):
            last = cards.pop()
            cards.append(Card(last.number, last.model, last.uuid, (*last.instances, part[1])))
    return cards


def _all_of(cards: Iterable[Card]) -> list[str]:
    return [device for card in cards for device in card.devices]


def _names(text: str) -> list[str]:
    """Return the devices that a value of ``CUDA_VISIBLE_DEVICES`` names; as for CUDA, no device ends the list."""
    names = (name.strip() for name in text.split(","))
    return list(takewhile(lambda name: name.isdecimal() or name.startswith(("GPU-", "MIG-")), names))


def _given_by_slurm(names: Sequence[str], environment: Mapping[str, str]) -> list[Gpu]:
    numbers = (environment.get("SLURM_STEP_GPUS") or environment.get("SLURM_JOB_GPUS") or "").split(",")
    if len(numbers) == len(names):
        keys = [f"slurm-{number}" for number in numbers]
    else:
        # Somebody chose among Slurm's: all that is known is that its next job has others.
        keys = [f"slurm-job-{environment['SLURM_JOB_ID']}-{name}" for name in names]
    return [Gpu(name, key) for name, key in zip(names, keys, strict=True)]


def _resolved(names: Sequence[str], cards: Sequence[Card], environment: Mapping[str, str]) -> list[str]:
    """Return the UUIDs of devices that are named by numbers or the beginnings of UUIDs, up to the first unknown."""
    models = sorted({card.model for card in cards})
    if len(models) > 1 and environment.get(_ORDER) != "PCI_BUS_ID" and any(map(str.isdecimal, names)):
        raise UserError(
            where=VISIBLE,
            found=f"numbers of GPUs ({environment[VISIBLE]}) on a machine with {' and '.join(models)}",
            expected="names that are the same for CUDA, which numbers the fastest GPU 0, and for nvidia-smi",
            mend=f"write the UUIDs that nvidia-smi -L prints, or set {_ORDER}=PCI_BUS_ID to mean nvidia-smi's numbers",
        )
    numbered = {str(card.number): card.devices[0] for card in cards}
    # Of a GPU that MIG divides, CUDA takes the first part.
    known = {card.uuid: card.devices[0] for card in cards} | {part: part for card in cards for part in card.instances}

    def resolve(name: str) -> str | None:
        if name.isdecimal():
            return numbered.get(str(int(name)))
        found = [device for uuid, device in known.items() if uuid.startswith(name)]
        # Older drivers call a part by its GPU and its place there, newer ones still understand it.
        return found[0] if len(found) == 1 else name if name.startswith("MIG-GPU-") else None

    return [device for device in takewhile(bool, map(resolve, names)) if device]
