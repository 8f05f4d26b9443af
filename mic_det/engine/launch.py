"""Start the processes of a run, and end all of them when one fails.

Either this starts them (``--num-gpus``, ``--num-machines``), on GPUs or, without any, on the CPU;
or torchrun has started them, which is seen from the environment that it sets.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm

from mic_det.errors import UserError

# The main process alone measures stability and writes checkpoints: the others wait for that long.
TIMEOUT = timedelta(minutes=30)
# Seconds between the first failure and the end of the others: one that failed as a consequence
# has time to say so; then SIGTERM, then SIGKILL.
GRACE = 3.0
LOST = 3  # exit code of a process that lost contact with another
STOPPED = 128 + signal.SIGTERM  # exit code of a run that SIGTERM ended, as a shell has it
TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class ProcessError(UserError, RuntimeError):
    """A process of a run failed; the message says which and how."""


def started_by_torchrun() -> bool:
    return all(name in os.environ for name in TORCHRUN)


def launch(
    main: Callable[..., None],
    processes: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple[Any, ...] = (),
    expected: tuple[type[Exception], ...] = (),
) -> None:
    """Call ``main(*args)`` in each process of the run.

    Args:
        main: a module's function, so that it can be found by a new process.
        processes: on this machine; one for each GPU.
        num_machines, machine_rank, dist_url: as in Detectron2's ``launch``; "auto" for one machine.
        expected: errors of which the message is all there is to say.

    Raises ProcessError when a process has failed, after all of this machine have ended; errors that
    are ``expected`` of all processes come with their message only. SIGTERM is passed on to the
    processes and ends this one, once they have ended, with exit code `STOPPED`.
    """
    if started_by_torchrun():
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        try:
            _run(main, args, rank, world, *local, "env://")
        except RuntimeError as error:
            if isinstance(error, ProcessError) or not lost_contact(error):
                raise
            raise ProcessError(
                f"Process {rank} lost contact with another one, which has ended: see its message."
            ) from error
        return
    if processes * num_machines <= 1:
        main(*args)
        return
    if dist_url == "auto":
        if num_machines > 1:
            raise ProcessError(
                "--num-machines needs --dist-url tcp://<first machine>:<free port>, the same on all"
            )
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    with tempfile.TemporaryDirectory(prefix="mic_det_errors_") as folder:
        context = multiprocessing.get_context("spawn")
        world, first = processes * num_machines, processes * machine_rank
        started = [
            context.Process(
                target=_child,
                args=(main, args, first + i, world, i, processes, dist_url, folder, expected),
            )
            for i in range(processes)
        ]
        for process in started:
            process.start()
        with _sigterm_passed_on(started) as passed_on:
            try:
                _join(started)
            finally:
                _end(started)
        codes = [process.exitcode for process in started]
        if STOPPED in codes or (passed_on and any(codes)):
            sys.exit(STOPPED)
        _raise_for(started, first, Path(folder))


@contextlib.contextmanager
def _sigterm_passed_on(processes: list[Any]) -> Iterator[list[int]]:
    """Inside, SIGTERM goes to the processes; the list then has an item."""
    signals: list[int] = []

    def pass_on(number: int, _: Any) -> None:
        signals.append(number)
        for process in processes:
            process.terminate()

    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    former = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGTERM, former)


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """What is inside is done by the main process, and by the others after it."""
    if not comm.is_main_process():
        comm.synchronize()
    yield
    if comm.is_main_process():
        comm.synchronize()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run(
    main: Callable[..., None],
    args: tuple[Any, ...],
    rank: int,
    world: int,
    local_rank: int,
    local_world: int,
    url: str,
) -> None:
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        if local_world > torch.cuda.device_count():
            raise ProcessError(
                f"{local_world} processes were asked for on a machine with "
                f"{torch.cuda.device_count()} GPUs: --num-gpus is the number of processes."
            )
        torch.cuda.set_device(local_rank)
    try:
        dist.init_process_group(
            # Tensors on the CPU go by gloo where there are GPUs too.
            backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            init_method=url,
            world_size=world,
            rank=rank,
            timeout=TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ProcessError(f"The {world} processes cannot meet at {url}: {reason}") from error
    comm.create_local_process_group(local_world)
    comm.synchronize()
    main(*args)
    comm.synchronize()
    dist.destroy_process_group()


def _child(
    main: Callable[..., None],
    args: tuple[Any, ...],
    rank: int,
    world: int,
    local_rank: int,
    local_world: int,
    url: str,
    folder: str,
    expected: tuple[type[Exception], ...],
) -> None:
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        _run(main, args, rank, world, local_rank, local_world, url)
    except (*expected, ProcessError) as error:
        (Path(folder) / f"{rank:05d}").write_text(str(error), encoding="utf-8")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except RuntimeError as error:
        if not lost_contact(error):
            raise
        sys.exit(LOST)


def lost_contact(error: BaseException) -> bool:
    """Whether an error of torch.distributed says that another process is gone."""
    if isinstance(error, (dist.DistNetworkError, dist.DistBackendError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("gloo" in text or "nccl" in text)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _join(processes: list[Any]) -> None:
    """Wait for all, or for the first failure and a little longer."""
    # Asked for once a round: a wait for none of them, all ended meanwhile, would have no end.
    while alive := [process for process in processes if process.is_alive()]:
        wait([process.sentinel for process in alive])
        if any(process.exitcode for process in processes):
            deadline = time.monotonic() + GRACE
            while time.monotonic() < deadline and any(each.is_alive() for each in processes):
                time.sleep(0.05)
            return


def _end(processes: list[Any]) -> None:
    """End those that are still there; note that it was done here."""
    left = [process for process in processes if process.is_alive()]
    for process in left:
        process.ended_here = True
        process.terminate()
    for process in left:
        process.join(GRACE)
        if process.is_alive():
            process.kill()
            process.join()


def _raise_for(processes: list[Any], first_rank: int, folder: Path) -> None:
    failed = {
        first_rank + i: process.exitcode
        for i, process in enumerate(processes)
        if process.exitcode and not getattr(process, "ended_here", False)
    }
    if not failed:
        return
    messages = {path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}
    if messages:
        raise ProcessError("\n".join(sorted(messages)))
    causes = {rank: code for rank, code in failed.items() if code != LOST}
    told = [f"Process {rank} {_ending(code)}." for rank, code in (causes or failed).items()]
    raise ProcessError(
        "\n".join(
            [
                *told,
                "The others were ended. Logs are log.txt and log.txt.rank<number> in OUTPUT_DIR; "
                "the same command with --resume goes on from the last checkpoint.",
            ]
        )
    )


def _ending(code: int) -> str:
    if code == LOST:
        return "lost contact with a process on another machine"
    if code > 0:
        return f"failed with exit code {code}; its traceback is above"
    name = signal.Signals(-code).name
    hint = " (often the system's answer to a lack of memory)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"
