"""``download``: resume, retries, checksums, safe extraction, and the published files' places."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pytest
from clove_server import Site, serve

from mmclvqa.clove.data_root import (
    FASTTEXT,
    FC7_WEIGHT,
    GQA_FEATURES,
    PUBLISHED_SIZE,
    TEXTVQA_FEATURES,
    TEXTVQA_OCR_FEATURES,
    VOCABULARY,
    load_vocabulary,
    prompts_path,
)
from mmclvqa.clove.download import SOURCES, Downloader, select
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.prompts import load_prompts
from mmclvqa.clove.transfer import ATTEMPTS, extract, fetch

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()
BY_NAME = {source.name: source for source in SOURCES}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    site = Site({"/big": CONTENT})
    server = serve(site)
    yield site
    server.shutdown()
    server.server_close()


def make_zip(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def make_tar(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return packed.getvalue()


def no_pause(_seconds: float) -> None:
    """Do not wait between attempts."""


# The transfer


def test_a_file_is_fetched_whole(site: Site, tmp_path: Path) -> None:
    assert fetch(f"{site.url}/big", tmp_path / "big", SHA256) == SHA256
    assert (tmp_path / "big").read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [tmp_path / "big"]


def test_a_broken_connection_goes_on_where_it_left_off(site: Site, tmp_path: Path) -> None:
    site.drops = [1000, 5000]
    fetch(f"{site.url}/big", tmp_path / "big", SHA256, pause=no_pause)
    assert (tmp_path / "big").read_bytes() == CONTENT
    assert [wanted for _, wanted in site.asked] == [None, "bytes=1000-", "bytes=6000-"]


def test_a_transfer_goes_on_in_the_next_run(site: Site, tmp_path: Path) -> None:
    site.drops = [1000] + [0] * ATTEMPTS
    with pytest.raises(DataError, match=f"gave up after {ATTEMPTS} attempts.*1000 bytes are kept"):
        fetch(f"{site.url}/big", tmp_path / "big", SHA256, pause=no_pause)
    assert not (tmp_path / "big").exists()
    site.drops = []
    fetch(f"{site.url}/big", tmp_path / "big", SHA256)
    assert site.asked[-1] == ("/big", "bytes=1000-")
    assert (tmp_path / "big").read_bytes() == CONTENT


def test_attempts_that_get_further_are_not_counted(site: Site, tmp_path: Path) -> None:
    site.drops = [1000] * (3 * ATTEMPTS)
    fetch(f"{site.url}/big", tmp_path / "big", SHA256, pause=no_pause)
    assert len(site.asked) == 3 * ATTEMPTS + 1


def test_a_server_without_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.drops = [1000]
    fetch(f"{site.url}/big", tmp_path / "big", SHA256, pause=no_pause)
    assert (tmp_path / "big").read_bytes() == CONTENT
    assert len(site.asked) == 2


def test_a_file_that_changed_meanwhile_starts_over(site: Site, tmp_path: Path) -> None:
    site.drops = [1000] + [0] * ATTEMPTS
    with pytest.raises(DataError):
        fetch(f"{site.url}/big", tmp_path / "big", pause=no_pause)
    site.drops, site.tag, site.files["/big"] = [], '"2"', CONTENT[::-1]
    fetch(f"{site.url}/big", tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == CONTENT[::-1]


def test_without_a_version_a_part_is_not_continued(site: Site, tmp_path: Path) -> None:
    site.tag = None
    site.drops = [1000]
    fetch(f"{site.url}/big", tmp_path / "big", SHA256, pause=no_pause)
    assert [wanted for _, wanted in site.asked] == [None, None]


def test_a_part_that_is_whole_is_taken_as_it_is(site: Site, tmp_path: Path) -> None:
    (tmp_path / "big.part").write_bytes(CONTENT)
    (tmp_path / "big.part.version").write_text('"1"', encoding="utf-8")
    fetch(f"{site.url}/big", tmp_path / "big", SHA256)
    assert site.asked == [("/big", f"bytes={len(CONTENT)}-")]


def test_a_wrong_checksum_is_an_error_and_leaves_nothing(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"its sha256 is {SHA256}, not the published 0000"):
        fetch(f"{site.url}/big", tmp_path / "big", "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_kept_unless_it_is_wrong(site: Site, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(CONTENT)
    assert fetch(f"{site.url}/big", tmp_path / "big", SHA256) == SHA256
    assert not site.asked
    (tmp_path / "big").write_bytes(b"other")
    fetch(f"{site.url}/big", tmp_path / "big", SHA256)
    assert (tmp_path / "big").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_after_growing_pauses(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429, 500]
    pauses: list[float] = []
    fetch(f"{site.url}/big", tmp_path / "big", SHA256, pause=pauses.append)
    assert pauses == [1, 2, 4]


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_final(site: Site, tmp_path: Path, status: int) -> None:
    site.statuses = [status]
    with pytest.raises(DataError, match=f"{site.url}/big: the server returned {status}"):
        fetch(f"{site.url}/big", tmp_path / "big")
    assert len(site.asked) == 1


def test_what_is_no_address_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a valid address"):
        fetch("nonsense", tmp_path / "big")


# Extraction


def place_npy(path: PurePosixPath) -> str | None:
    return f"placed/{path.name}" if path.suffix == ".npy" else None


def unpack(tmp_path: Path, packed: bytes) -> list[str]:
    archive, root = tmp_path / "archive", tmp_path / "root"
    archive.write_bytes(packed)
    return extract(archive, root, place_npy, "*.npy", tmp_path / "root" / ".staging")[0]


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_wanted_files_are_placed_and_the_rest_is_left(
    tmp_path: Path, make: Callable[[dict[str, bytes]], bytes]
) -> None:
    packed = make({"deep/er/a.npy": b"A", "README": b"R", "__MACOSX/deep/._a.npy": b"M"})
    assert unpack(tmp_path, packed) == ["placed/a.npy"]
    files = [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
    assert files == [tmp_path / "root/placed/a.npy"] and files[0].read_bytes() == b"A"


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("name", ["../../evil.npy", "/tmp/evil.npy", "a/../../evil.npy", "C:\\evil.npy"])
def test_an_archive_that_points_outside_is_refused_whole(
    tmp_path: Path, make: Callable[[dict[str, bytes]], bytes], name: str
) -> None:
    with pytest.raises(DataError, match="points outside"):
        unpack(tmp_path, make({"a.npy": b"A", name: b"evil"}))
    assert not list(tmp_path.rglob("*.npy"))


def test_a_link_in_a_wanted_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b\.npy is a link"):
        unpack(tmp_path, make_tar({"a.npy": b"A"}, links={"b.npy": "/etc/passwd"}))
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_an_archive_without_anything_wanted_lists_what_it_holds(
    tmp_path: Path, make: Callable[[dict[str, bytes]], bytes]
) -> None:
    with pytest.raises(DataError, match=r"has no \*\.npy; it contains x/a\.txt, b\.txt"):
        unpack(tmp_path, make({"x/a.txt": b"A", "b.txt": b"B"}))


def test_two_files_for_one_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x/a\.npy and y/a\.npy are both meant for placed/a\.npy"):
        unpack(tmp_path, make_zip({"x/a.npy": b"A", "y/a.npy": b"B"}))


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
def test_a_broken_archive_places_nothing(
    tmp_path: Path, make: Callable[[dict[str, bytes]], bytes], share: float
) -> None:
    packed = make({f"{number}.npy": hashlib.sha256(bytes([number])).digest() * 99 for number in range(9)})
    with pytest.raises(DataError, match="archive"):
        unpack(tmp_path, packed[: int(share * len(packed))])
    assert not list(tmp_path.rglob("*.npy"))


# The published files and their places


def test_every_published_file_has_a_name_an_address_and_a_place() -> None:
    assert len({source.name for source in SOURCES}) == len({source.url for source in SOURCES}) == len(SOURCES)
    assert all((source.target is None) != (source.target_of is None) for source in SOURCES)
    assert all(re.fullmatch("[0-9a-f]{64}", source.sha256) for source in SOURCES if source.sha256)


@pytest.mark.parametrize(
    ("name", "member", "target"),
    [
        ("clove", "CLOVE-npy/functional/fcl_mmf_object_train.npy", "functional/fcl_mmf_object_train.npy"),
        ("clove", "x/fcl_mmf_b#Workplace_val.npy", "scene/fcl_mmf_b#Workplace_val.npy"),
        ("clove", "x/fcl_mmf_unknown_val.npy", None),
        ("clove", "x/clvqa_answer_6k.txt", None),
        ("clove-json", "x/fcl_mmf_logical_val.json", "functional/fcl_mmf_logical_val.json"),
        ("gqa-features", "defaults/features/gqa.lmdb/data.mdb", f"{GQA_FEATURES}/data.mdb"),
        ("gqa-features", "gqa.lmdb", GQA_FEATURES),
        ("textvqa-features", "open_images/detectron.lmdb/data.mdb", f"{TEXTVQA_FEATURES}/data.mdb"),
        ("textvqa-features", "open_images/resnet152.lmdb/data.mdb", None),
        ("fc7", "detectron/fc7/fc7_w.pkl", FC7_WEIGHT),
        (
            "replays-functional",
            "x/oarlks_REPLAY[o]_AT[a].npy",
            "exp/clvqa/QAG_seq/not_use_gt/QAG_functional_task_token/distilgpt2_replay/"
            "distilgpt2_functional_oarlks/oarlks_REPLAY[o]_AT[a].npy",
        ),
        (
            "replays-scene",
            "bdfcae_REPLAY_AT[d].npy",
            "exp/clvqa/QAG_seq/not_use_gt/QAG_scene_task_token/distilgpt2_replay/"
            "distilgpt2_scene_bdfcae/bdfcae_REPLAY_AT[d].npy",
        ),
        ("replays-scene", "x/oarlks_REPLAY[o]_AT[a].npy", None),
    ],
)
def test_files_go_where_the_layout_says(name: str, member: str, target: str | None) -> None:
    assert BY_NAME[name].target_of(PurePosixPath(member)) == target


def test_checkpoints_go_where_the_sweep_looks_for_them() -> None:
    assert BY_NAME["checkpoint-functional"].target == (
        "exp/clvqa/save/functional/setting_1_oarlks/"
        "distilgpt2_replay_qag_seq_not_use_gt_task_token_1.5/unicl_scenetext/unicl_final.pth"
    )


def test_without_names_data_and_features_are_fetched_and_no_experiments() -> None:
    chosen = select([])
    assert {"vocabulary", "prompts-scene", "clove"} <= {source.name for source in chosen}
    assert not any(source.experiments for source in chosen)
    assert select(["all"]) == list(SOURCES)
    with pytest.raises(DataError, match="unknown download cloves.*clove, gqa-features"):
        select(["cloves"])


# The command


def path_of(name: str) -> str:
    return urlsplit(BY_NAME[name].url).path


def test_the_command_fills_a_root_and_skips_what_is_there(site: Site, tmp_path: Path, run_clove: Run) -> None:
    site.files[path_of("clove")] = make_zip({"CLOVE/fcl_mmf_object_train.npy": b"records", "NOTE": b""})
    arguments = ("download", tmp_path, "clove", "--base-url", site.url)
    code, out, _ = run_clove(*arguments)
    assert code == 0 and "1 file below" in out and "left out 1 other file" in out
    assert hashlib.sha256(site.files[path_of("clove")]).hexdigest() in out
    assert (tmp_path / "functional/fcl_mmf_object_train.npy").read_bytes() == b"records"
    asked = len(site.asked)
    assert "already downloaded" in run_clove(*arguments)[1]
    assert len(site.asked) == asked


def test_a_file_that_went_missing_is_fetched_again(site: Site, tmp_path: Path, run_clove: Run) -> None:
    site.files[path_of("fasttext")] = b"vectors"
    arguments = ("download", tmp_path, "fasttext", "--base-url", site.url)
    run_clove(*arguments)
    (tmp_path / FASTTEXT).unlink()
    assert run_clove(*arguments)[0] == 0
    assert (tmp_path / FASTTEXT).read_bytes() == b"vectors"


def test_a_wrong_checksum_ends_the_command_with_one_line(site: Site, tmp_path: Path, run_clove: Run) -> None:
    site.files[path_of("gqa-features")] = make_tar({"gqa.lmdb/data.mdb": b"other"})
    code, _, err = run_clove("download", tmp_path, "gqa-features", "--base-url", site.url)
    assert code == 1 and err.startswith("error: ") and err.count("\n") == 1 and "sha256" in err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_faulty_archive_is_not_kept(site: Site, tmp_path: Path, run_clove: Run) -> None:
    site.files[path_of("clove")] = b"no archive"
    code, _, err = run_clove("download", tmp_path, "clove", "--base-url", site.url)
    assert code == 1 and "not a complete archive" in err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_archive_without_anything_wanted_is_kept_and_not_fetched_again(
    site: Site, tmp_path: Path, run_clove: Run
) -> None:
    site.files[path_of("clove")] = make_zip({"renamed.npy": b"records"})
    for _ in range(2):
        code, _, err = run_clove("download", tmp_path, "clove", "--base-url", site.url)
        assert code == 1 and "CLOVE-npy.zip: has no fcl_mmf_" in err and "renamed.npy" in err
    assert len(site.asked) == 1


def test_a_folder_in_the_way_is_named(site: Site, tmp_path: Path, run_clove: Run) -> None:
    site.files[path_of("clove")] = make_zip({"fcl_mmf_object_train.npy": b"records"})
    (tmp_path / "functional/fcl_mmf_object_train.npy").mkdir(parents=True)
    code, _, err = run_clove("download", tmp_path, "clove", "--base-url", site.url)
    assert code == 1 and "fcl_mmf_object_train.npy: blocks the target" in err


def test_databases_of_a_published_archive_land_in_the_layout(site: Site, tmp_path: Path) -> None:
    packed = make_tar({"ocr_en_frcn_features.lmdb/data.mdb": b"D", "ocr_en_frcn_features.lmdb/lock.mdb": b""})
    source = replace(BY_NAME["textvqa-ocr-features"], sha256=hashlib.sha256(packed).hexdigest())
    site.files[path_of(source.name)] = packed
    Downloader(tmp_path, tmp_path, site.url).get(source)
    assert (tmp_path / TEXTVQA_OCR_FEATURES / "data.mdb").read_bytes() == b"D"


def test_replays_go_below_the_experiment_root(
    site: Site, tmp_path: Path, run_clove: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROOT", raising=False)
    name = "oarlks_REPLAY[o]_AT[a].npy"
    site.files[path_of("replays-functional")] = make_zip({name: b"replay"})
    arguments = ("download", tmp_path / "data", "replays-functional", "--base-url", site.url)
    run_clove(*arguments)
    assert [path.name for path in (tmp_path / "data/published/exp").rglob("*.npy")] == [name]
    run_clove(*arguments, "--root", tmp_path / "experiments")
    assert [path.name for path in (tmp_path / "experiments/exp").rglob("*.npy")] == [name]


PUBLISHED_FILES = {"vocabulary": "clvqa_answer_6k.txt", "prompts-scene": "stage_sg_scene_setting_50u-50c.json"}


def test_published_vocabulary_and_prompts_are_fetched_and_readable(
    shared_data: Path, site: Site, tmp_path: Path, run_clove: Run
) -> None:
    for name, file in PUBLISHED_FILES.items():
        site.files[path_of(name)] = (shared_data / file).read_bytes()
        assert len(site.files[path_of(name)]) == BY_NAME[name].size
    code, out, err = run_clove("download", tmp_path, *PUBLISHED_FILES, "--base-url", site.url)
    assert code == 0, err
    assert out.count("1 file below") == 2 and "no published checksum" not in out
    assert len(load_vocabulary(tmp_path / VOCABULARY)) == PUBLISHED_SIZE
    assert len(load_prompts(tmp_path / prompts_path("scene"), "scene")) == 6


@pytest.mark.parametrize("name", PUBLISHED_FILES)
def test_another_file_in_place_of_a_published_one_is_refused(
    site: Site, tmp_path: Path, run_clove: Run, name: str
) -> None:
    site.files[path_of(name)] = b"<pad>\n"
    code, _, err = run_clove("download", tmp_path, name, "--base-url", site.url)
    assert code == 1 and "not the published" in err and err.count("\n") == 1
    assert not (tmp_path / BY_NAME[name].target).exists()


def test_a_dry_run_says_sizes_where_they_are_known_and_what_is_here(site: Site, tmp_path: Path, run_clove: Run) -> None:
    site.files[path_of("fasttext")] = b"vectors"
    run_clove("download", tmp_path, "fasttext", "--base-url", site.url)
    _, out, _ = run_clove("download", tmp_path, "fasttext", "vocabulary", "clove", "--dry-run")
    fasttext, vocabulary, clove = (out.partition(f"{name}: ")[2] for name in ("fasttext", "vocabulary", "clove"))
    assert fasttext.splitlines()[1:3] == ["  already downloaded", "  size 7 bytes"]
    assert vocabulary.splitlines()[2] == "  size 41,128 bytes"
    assert clove.splitlines()[2] == "  size not published"
    assert out.splitlines()[-1] == "to fetch: 2 of 3; 41,128 bytes, and 1 of unpublished size"


def test_a_dry_run_without_names_lists_everything(tmp_path: Path, run_clove: Run) -> None:
    _, out, _ = run_clove("download", tmp_path, "--dry-run")
    assert all(f"{source.url}\n" in out for source in SOURCES)
    assert out.count("(only when named)") == len(SOURCES) - len(select([]))
    assert f"to fetch: {len(select([]))} of {len(select([]))}; 3,681,605 bytes" in out


def test_a_dry_run_fetches_nothing(site: Site, tmp_path: Path, run_clove: Run) -> None:
    code, out, _ = run_clove("download", tmp_path / "data", "all", "--base-url", site.url, "--dry-run")
    assert code == 0 and not site.asked and not (tmp_path / "data").exists()
    assert all(source.name in out for source in SOURCES)
    assert f"from {site.url}{path_of('fasttext')}" in out
