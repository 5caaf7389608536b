"""The READMEs: every command, flag, path, link and picture in them exists, and the front door stays short."""

import functools
import importlib.util
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from loaders import DATASETS
from models import MODELS
from tests.commands import run_command, run_launcher

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("loaders", "losses", "models", "preprocess", "tests", "utils")
FRONT_DOOR = ROOT / "README.md"
READMES = [FRONT_DOOR, *sorted(path for room in ROOMS for path in (ROOT / room).rglob("README.md"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in READMES]
OTHERS = {"apt-get", "pip", "ray", "tensorboard"}  # programs whose flags are not ours to test
STARTERS = {"torchrun", "srun"}
LAUNCHER_FLAGS = {"--demo"}
TEST_MODES = ("--video", "--serve", "--compare", "--matrix", "--scores")  # of test.py
SHELL_FILES = [f"utils/shell/{name}.sh" for name in ("launch", "environment", "demo")]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAG = re.compile(r"(?<![\w-])--\w[\w-]*")


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def prose_of(name):
    return FENCE.sub("", text_of(name))


def commands_of(name):
    """Words of each command in a README's bash blocks, and in its inline code that begins with a program."""
    text = text_of(name)
    blocks = [body.replace("\\\n", " ") for kind, body in FENCE.findall(text) if kind == "bash"]
    lines = [line for block in blocks for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", prose_of(name))
    lines += [
        span
        for span in spans
        if re.match(r"([A-Z_]+=\S+ )*(python|bash|torchrun|test\.py|train\.py) ?", span)
    ]
    commands = [shlex.split(line, comments=True) for line in lines if not re.match(r"\w+=\$\(", line)]
    return [words for words in commands if words]


def split_command(words):
    """(variables, flags of torchrun, script or module, its arguments)."""
    start = next(i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word))
    variables = dict(word.split("=", 1) for word in words[:start])
    words = words[start:]
    before = []
    if words[0] in STARTERS:
        end = next(i for i, word in enumerate(words) if word.endswith(".py"))
        before, words = words[1:end], words[end:]
    if words[0] == "python":
        words = words[1:]
    if words[0] == "-m":
        return variables, before, ("-m", words[1]), words[2:]
    return variables, before, (words[0],), words[1:]


@functools.cache
def help_of(*script):
    result = run_command(*script, "--help")
    assert result.returncode == 0, result.stderr
    return result.stdout


def flags_of(*script):
    return set(FLAG.findall(help_of(*script)))


def known_flags(script, arguments):
    """All flags that a command takes, by its own --help; the chosen method or mode changes them."""
    method = arguments[arguments.index("--model") + 1] if "--model" in arguments else ""
    chosen = ("--model", method) if method in MODELS else ()
    if script == ("train.py",):
        search = flags_of("train.py", "--search") if "--search" in arguments else set()
        return search | flags_of("train.py", *chosen)
    if script == ("test.py",):
        modes = [mode for mode in TEST_MODES if mode in arguments]
        return flags_of("test.py", *modes[:1], *chosen) | set(modes)
    if script == ("-m", "loaders.audit") and "--ids_only" in arguments:
        return flags_of(*script, "--ids_only")
    if script == ("-m", "utils.checkpoint"):
        script += (arguments[0],)
    return flags_of(*script)


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist_and_take_the_flags_that_a_readme_gives_them(name):
    for words in commands_of(name):
        shown = shlex.join(words)
        if words[0] in OTHERS:
            continue
        variables, before, script, arguments = split_command(words)
        if before:
            torchruns = set(FLAG.findall(" ".join(before))) - {"--standalone"}
            assert torchruns <= flags_of("-m", "torch.distributed.run"), shown
        given = {word.partition("=")[0] for word in arguments if FLAG.match(word)}
        if script == ("bash",):
            launcher, arguments = arguments[0], arguments[1:]
            assert (ROOT / launcher).is_file(), shown
            model = ["--model", variables.get("MODEL", "beyond_masking")]
            given = {word for word in arguments if FLAG.match(word)} - LAUNCHER_FLAGS
            assert not given or given <= known_flags(("train.py",), model), shown
            sources = (
                text_of(launcher) + text_of("utils/shell/launch.sh") + text_of("utils/shell/environment.sh")
            )
            assert all(re.search(rf"\b{variable}\b", sources) for variable in variables), shown
            continue
        if script[0] == "-m":
            assert importlib.util.find_spec(script[1]) is not None, shown
        else:
            assert (ROOT / script[0]).is_file(), shown
        if given:
            unknown = given - known_flags(script, arguments) - {"--help"}
            assert not unknown, f"{shown}: {unknown}"


def test_flags_named_in_the_text_exist():
    commands = {
        split_command(words)[2] for name in NAMES for words in commands_of(name) if words[0] not in OTHERS
    }
    modules = {script for script in commands if script[0] == "-m" and script != ("-m", "utils.checkpoint")}
    modules |= {("train.py", "--model", model) for model in MODELS} | {("train.py", "--search")}
    modules |= {("test.py",), *(("test.py", mode) for mode in ("--video", "--serve", "--scores"))}
    modules |= {("-m", "loaders.audit", "--ids_only")}
    known = {flag for script in modules for flag in flags_of(*script)} | LAUNCHER_FLAGS
    known |= {"--help", "--logdir", "--compare", "--matrix", "--shm-size", "--ipc"}  # the last two: docker's
    named = {flag for name in NAMES for flag in FLAG.findall(re.sub(r"\]\([^)]*\)", "", prose_of(name)))}
    assert len(named) > 60
    assert named <= known


def slugs(name):
    """Anchors that GitHub gives the headings of a README."""
    headings = re.findall(r"^#+ (.+)$", prose_of(name), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_of(name):
    text = prose_of(name)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)


@pytest.mark.parametrize("name", NAMES)
def test_links_and_pictures_resolve(name):
    for link in links_of(name):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = ((ROOT / name).parent / target).resolve() if target else ROOT / name
        assert path.is_relative_to(ROOT), link
        assert path.is_file(), link
        assert not anchor or anchor in slugs(path.relative_to(ROOT).as_posix()), link


@pytest.mark.parametrize("name", NAMES)
def test_paths_named_in_a_readme_exist(name):
    spans = re.findall(r"`([\w./-]+)`", prose_of(name))
    folders = "|".join(ROOMS)
    paths = [span for span in spans if re.match(rf"({folders})/", span) and "NAME" not in span]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    here = (ROOT / name).parent  # a room's README names its own folders without the room
    own = [span for span in spans if re.fullmatch(r"[a-z_]+/", span)]
    assert [path for path in own if not (here / path).is_dir() and not (ROOT / path).is_dir()] == []


def test_switches_named_in_a_readme_are_read_somewhere():
    switches = {name for path in NAMES for name in re.findall(r"`([A-Z_]+)=[01]`", text_of(path))}
    rooms = set(ROOMS) - {"tests"}
    sources = "".join(path.read_text("utf-8") for room in rooms for path in (ROOT / room).rglob("*.py"))
    sources += "".join(text_of(path) for path in SHELL_FILES)
    assert "PLAIN_MEDIAPIPE" in switches
    assert [name for name in switches if f'"{name}"' not in sources and f"{name}:-" not in sources] == []


def test_every_room_is_linked_from_the_front_door_which_is_short():
    assert len(text_of("README.md").splitlines()) <= 160
    linked = {link.partition("#")[0] for link in links_of("README.md")}
    assert set(NAMES) - {"README.md"} <= linked
    pictures = [path for path in (ROOT / ".readme").iterdir()]
    assert {f".readme/{path.name}" for path in pictures} <= linked
    assert all(path.stat().st_size < 300_000 for path in pictures)


@pytest.mark.parametrize(("name", "heading"), [("models", "Add a method"), ("loaders", "Add a data set")])
def test_how_to_extend_is_one_click_away_and_takes_four_steps(name, heading):
    readme = f"{name}/README.md"
    assert f"{readme}#{heading.lower().replace(' ', '-')}" in links_of("README.md")
    section = text_of(readme).split(f"\n## {heading}\n")[1].split("\n## ")[0]
    assert re.findall(r"^(\d)\. ", section, re.MULTILINE) == ["1", "2", "3", "4"]


def test_menus_have_a_row_for_each_of_their_names():
    assert set(re.findall(r"^\| `(\w+)`", text_of("loaders/README.md"), re.MULTILINE)) >= set(DATASETS)
    rows = re.findall(r"^\| \[`(\w+)`\].*$", text_of("README.md"), re.MULTILINE)
    assert sorted(rows) == sorted(MODELS)
    for model, detector in MODELS.items():
        row = next(line for line in text_of("README.md").splitlines() if line.startswith(f"| [`{model}`]"))
        assert set(detector.presets) <= set(re.findall(r"`(\w+)`", row))


def test_no_sentence_stands_twice():
    sentences = Counter()
    for name in NAMES:
        blocks = re.split(r"\n\s*\n|\n- |\n\d\. |\|", prose_of(name))
        text = [re.sub(r"\s+", " ", block) for block in blocks]
        sentences.update(s.strip() for block in text for s in re.split(r"(?<=[.:!?]) ", block) if len(s) > 50)
    assert len(sentences) > 200
    assert [sentence for sentence, count in sentences.items() if count > 1] == []


ENCODERS = "--video_encoder r2plus1d_18 --landmark_teacher autoencoder"


def ablation_rows():
    section = text_of("models/README.md").split("### Ablation")[1].split("\n### ")[0]
    return re.findall(r"`(--(?:students|landmark_teacher|temporal_alignment) [^`]*)`", section)


@pytest.mark.parametrize("flags", [*ablation_rows(), ENCODERS])
def test_the_ablation_rows_are_configurations(flags):
    assert flags in text_of("models/README.md")
    assert len(ablation_rows()) == 5
    result = run_command("train.py", *flags.split(), "--print_config")
    assert result.returncode == 0, result.stderr


def test_an_ablation_row_passes_the_launcher():
    result = run_launcher("run_fakeavceleb.sh", *ablation_rows()[0].split(), "--print_config")
    assert result.returncode == 0, result.stderr
