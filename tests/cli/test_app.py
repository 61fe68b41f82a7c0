from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import typer

import bigbatch
from bigbatch.cli.app import app, main
from bigbatch.errors import (
    BigbatchError,
    DataError,
    Diverged,
    DoesNotFit,
    GateMissed,
    ModelError,
    RecipeError,
    RunLocked,
)
from bigbatch.recipe.load import load_recipe

FLAGS = {
    "": ["--help", "--version", "-h"],
    "init": ["--column", "--force", "--help", "--model", "--out", "--pretrain", "-h"],
    "prepare": ["--help", "--set", "-h"],
    "tokenize": ["--help", "--out", "--part", "--processes", "--publish", "--set", "-h", "-o"],
    "watch": ["--help", "--port", "-h"],
    "track": ["--follow", "--help", "--to", "-h"],
    "convert": ["--encoding", "--help", "--quoting", "-h"],
    "split": [
        "--by",
        "--column",
        "--help",
        "--letters",
        "--seed",
        "--test",
        "--threshold",
        "--time",
        "--to",
        "--validation",
        "-h",
    ],
    "plan": ["--audit", "--dry-run", "--graph", "--help", "--ranks", "--set", "-h"],
    "train": [
        "--allow",
        "--continue",
        "--help",
        "--hosts",
        "--python",
        "--ranks",
        "--resume",
        "--set",
        "--slurm",
        "--submit",
        "-h",
    ],
    "evaluate": ["--code", "--column", "--device", "--help", "--quoting", "-h"],
    "predict": [
        "--code",
        "--column",
        "--device",
        "--dimension",
        "--help",
        "--keep",
        "--out",
        "--quoting",
        "-h",
        "-o",
    ],
    "serve": [
        "--code",
        "--deadline",
        "--device",
        "--drain",
        "--help",
        "--host",
        "--max-body",
        "--max-rows",
        "--max-text",
        "--max-tokens",
        "--port",
        "--queue",
        "--reload",
        "--token-file",
        "--wait",
        "-h",
    ],
    "export": ["--code", "--help", "--out", "--python", "--rows", "--to", "-h", "-o"],
    "mine": [
        "--column",
        "--corpus",
        "--device",
        "--guide",
        "--help",
        "--margin",
        "--max-score",
        "--negatives",
        "--out",
        "--quoting",
        "--range",
        "--scores",
        "-h",
        "-o",
    ],
    "generate": [
        *("--beams", "--chat", "--code", "--column", "--device", "--help", "--keep", "--max-tokens", "--out"),
        *("--prompts", "--seed", "--stop", "--temperature", "--top-k", "--top-p", "-h", "-o"),
    ],
    "report": ["--help", "-h"],
    "compare": ["--help", "-h"],
    "sweep": [
        "--budget",
        "--drop-weights",
        "--help",
        "--metric",
        "--name",
        "--over",
        "--parallel",
        "--set",
        "-h",
    ],
    "scale": [
        "--batches",
        "--budget",
        "--drop-weights",
        "--every",
        "--from",
        "--help",
        "--name",
        "--parallel",
        "--seeds",
        "--set",
        "--target",
        "-h",
    ],
    "bench": ["--against", "--help", "--out", "--resume", "--rounds", "--set", "--updates", "-h"],
}


@pytest.fixture
def api(monkeypatch, tmp_path):
    """A stand-in for what the commands call that writes the calls down, and a folder with a recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text("model: m\ndata: {train: t.csv}\n")
    stub = ModuleType("bigbatch.api and its neighbours")
    calls = []

    def answer(name, value):
        def function(*args, **kwargs):
            calls.append((name, args, kwargs))
            if isinstance(value[0], BaseException):
                raise value[0]
            return value[0]

        setattr(stub, name, function)
        return value

    stub.calls = calls
    stub.answers = {
        "init": answer(
            "init", [SimpleNamespace(path="recipe.yaml", lines=["13,456 rows", "next: bigbatch train"])]
        ),
        "plan": answer("plan", [["37 updates", "micro_tokens 512"]]),
        "prepare": answer("prepare", [["train: 12 samples, 90 tokens"]]),
        "tokenize": answer("tokenize", [["tokens: cache"]]),
        "train_command": answer("train_command", [SimpleNamespace(status="finished", signal=None)]),
        "launch_command": answer("launch_command", [None]),
        "evaluate": answer("evaluate", [{"loss": 0.5, "accuracy": 0.851234567}]),
        "predict_file": answer("predict_file", [None]),
        "generate_command": answer("generate_command", [None]),
        "report": answer("report", [Path("runs/x/report.html")]),
        "bench": answer("bench", [None]),
        "compare": answer("compare", [("a table", Path("compare.html"))]),
    }
    for name in ("api", "answers", "commands"):
        monkeypatch.setitem(sys.modules, f"bigbatch.{name}", stub)
        monkeypatch.setattr(bigbatch, name, stub, raising=False)
    return stub


@pytest.fixture
def run(capsys):
    def run(*words):
        with pytest.raises(SystemExit) as caught:
            main(list(words))
        out = capsys.readouterr()
        return caught.value.code, out.out, out.err

    return run


def test_what_is_not_needed_for_help_is_not_loaded():
    code = (
        "import sys, bigbatch.cli.app\n"
        "slow = {'torch', 'transformers', 'numpy', 'pyarrow', 'bigbatch.api', 'bigbatch.commands', 'bigbatch.recipe.schema'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_flags_are_frozen():
    group = typer.main.get_command(app)
    context = group.make_context("bigbatch", ["init", "x"], resilient_parsing=True)
    found = {"": group, **group.commands}
    options = {
        name: sorted(
            option
            for parameter in command.get_params(
                command.make_context(name, [], parent=context, resilient_parsing=True)
            )
            for option in parameter.opts
            if option.startswith("-")
        )
        for name, command in found.items()
        if not command.hidden
    }
    assert options == FLAGS


def test_each_word_of_a_command_is_explained():
    group = typer.main.get_command(app)
    context = group.make_context("bigbatch", ["init", "x"], resilient_parsing=True)
    silent = [
        f"{name} {parameter.name}"
        for name, command in group.commands.items()
        if not command.hidden
        for parameter in command.get_params(
            command.make_context(name, [], parent=context, resilient_parsing=True)
        )
        if not parameter.help
    ]
    assert silent == []


@pytest.mark.parametrize("command", [name for name in FLAGS if name])
def test_each_help_has_an_example(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"Example: bigbatch {command} " in out


def test_version(run):
    assert run("--version") == (0, f"bigbatch {bigbatch.__version__}\n", "")


def test_init(run, monkeypatch, tmp_path):
    looked_at = []
    guess = ModuleType("bigbatch.data.guess")
    guess.profile = lambda files, columns, say: looked_at.append((files, columns)) or SimpleNamespace(
        files=("a.csv",), rows=400, columns={"text": "t", "label": "l"}, all_columns=("t", "l"), kind="single",
        encoding="utf-8", quoting="minimal", language="en", class_counts={"x": 200, "y": 200}, words={}, empty_texts=0,
        missing_labels=0, warnings=(), running=None,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "bigbatch.data.guess", guess)
    monkeypatch.setitem(sys.modules, "bigbatch.data", ModuleType("bigbatch.data"))
    monkeypatch.chdir(tmp_path)
    more = ("--model", "m", "--out", "new.yaml", "--column", "text=t", "--column", "label=l")
    code, out, _ = run("init", "a.csv", "b.csv", "test.csv", *more)
    assert (code, looked_at) == (0, [(["a.csv", "b.csv"], {"text": "t", "label": "l"})])
    assert out.endswith("wrote new.yaml\nnext: bigbatch train new.yaml\n")
    recipe = load_recipe("new.yaml")
    assert ([file.path for file in recipe.data.train], recipe.model.name) == (["a.csv", "b.csv"], "m")
    code, _, err = run("init", "a.csv", "--out", "new.yaml")
    assert code == 2 and "new.yaml exists" in err
    assert run("init", "a.csv", "--out", "new.yaml", "--force")[0] == 0


def test_plan(api, run, monkeypatch):
    monkeypatch.setenv("BIGBATCH_CLIP", "2")
    code, out, _ = run("plan", "r.yaml", "batch=4", "--set", "clip=1")
    assert (code, out) == (0, "37 updates\nmicro_tokens 512\n")
    [(_, args, keywords)] = api.calls
    assert args == (Path("r.yaml"), ["batch=4", "clip=1"])
    assert keywords["environ"]["BIGBATCH_CLIP"] == "2" and keywords["audit"] is False
    run("plan", "r.yaml", "--audit")
    assert api.calls[1][2]["audit"] is True and api.calls[1][2]["dry_run"] is False
    run("plan", "r.yaml", "--dry-run", "--ranks", "1024")
    assert (api.calls[2][2]["dry_run"], api.calls[2][2]["ranks"]) == (True, 1024)


def test_prepare(api, run):
    assert run("prepare", "r.yaml", "data.max_length=9")[:2] == (0, "train: 12 samples, 90 tokens\n")
    [(name, args, _)] = api.calls
    assert (name, args) == ("prepare", (Path("r.yaml"), ["data.max_length=9"]))
    assert run("tokenize", "r.yaml", "-o", "cache", "--part", "1/4")[:2] == (0, "tokens: cache\n")
    _, _, options = api.calls[-1]
    assert (options["out"], options["processes"], options["part"]) == (Path("cache"), 1, (1, 4))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--ranks", "4"], "--ranks needs --dry-run"),
        (["--dry-run", "--graph"], "--dry-run computes nothing"),
        (["--dry-run", "--audit"], "--dry-run computes nothing"),
        (["--dry-run", "--ranks", "1"], "--ranks"),
    ],
)
def test_a_dry_run_that_makes_no_sense(api, run, words, part):
    code, _, err = run("plan", "r.yaml", *words)
    assert code == 2 and part in err and api.calls == []


@pytest.mark.parametrize(
    ("words", "changes", "graph"),
    [
        ([], [], False),
        (["--graph"], [], True),
        (["--graph", "out.html"], [], "out.html"),
        (["out.html", "batch=4", "--graph"], ["batch=4"], "out.html"),
        (["--graph", "run.dir=a.html"], ["run.dir=a.html"], True),
        (["out.html"], ["out.html"], False),
    ],
)
def test_plan_with_a_graph(api, run, words, changes, graph):
    assert run("plan", "r.yaml", *words)[0] == 0
    [(_, args, keywords)] = api.calls
    assert args[1] == changes and keywords["graph"] == graph


@pytest.mark.parametrize("command", ["plan", "train"])
def test_recipe_mistakes_are_said_at_once(tmp_path, monkeypatch, run, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text("model: m\ndata: {train: t.csv}\n")
    code, out, err = run(command, "r.yaml", "optimizer.lrr=1", "--set", "clip=x")
    assert (code, out) == (2, "")
    assert err == (
        "command line: optimizer.lrr: unknown key; did you mean optimizer.lr?\n"
        "command line: clip: found 'x' (text); expected a number\n"
    )


def test_train(api, run):
    assert run("train", "r.yaml", "batch.samples=4096", "optimizer.name=lamb")[0] == 0
    assert run("train", "r.yaml", "--resume")[0] == 0
    assert (
        run("train", "r.yaml", "--continue", "runs/x", "--allow", "optimizer.lr,epochs", "--allow", "clip")[0]
        == 0
    )
    first, second, third = [call for call in api.calls if call[0] == "train_command"]
    assert first[1] == (Path("r.yaml"), ["batch.samples=4096", "optimizer.name=lamb"])
    assert (first[2]["resume"], first[2]["continue_from"], first[2]["allow"]) == (None, None, [])
    assert second[2]["resume"] is True
    assert third[2]["continue_from"] == "runs/x"
    assert third[2]["allow"] == ["optimizer.lr", "epochs", "clip"]


def test_what_was_launched_ends_with_its_exit_code(api, run):
    api.answers["launch_command"][0] = 6
    assert run("train", "r.yaml", "--ranks", "2", "--hosts", "a, b", "--resume", "epochs=2")[0] == 6
    [(name, args, keywords)] = api.calls
    # Changed keys are kept apart: no command line of another process may hold them.
    assert (name, *args[1:3]) == ("launch_command", ["epochs=2"], ["train", "r.yaml", "--resume"])
    assert (keywords["ranks"], keywords["hosts"], keywords["python"]) == ("2", ["a", "b"], None)


def test_bench(api, run):
    assert run("bench", "r.yaml", "batch=64", "--against", "hf", "--updates", "2", "--rounds", "1")[0] == 0
    [(name, args, keywords)] = api.calls
    assert (name, args) == ("bench", (Path("r.yaml"), ["batch=64"]))
    asked = {key: keywords[key] for key in ("against", "updates", "rounds", "out", "resume")}
    assert asked == {"against": "hf", "updates": 2, "rounds": 1, "out": None, "resume": False}


@pytest.mark.parametrize(
    ("status", "signal", "code"),
    [("finished", None, 0), ("interrupted", 2, 130), ("interrupted", 15, 143), ("interrupted", None, 130)],
)
def test_an_interrupted_run_exits_with_its_signal(api, run, status, signal, code):
    api.answers["train_command"][0] = SimpleNamespace(status=status, signal=signal)
    assert run("train", "r.yaml")[0] == code


def test_generate_takes_a_prompt_a_file_or_standard_input(api, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from stdin\n")))
    assert run("generate", "runs/x", "hello", "--stop", "a", "--stop", "b", "-o", "-")[0] == 0
    assert run("generate", "runs/x", "--prompts", "p.txt", "--temperature", "0.5", "-o", "o.jsonl")[0] == 0
    assert run("generate", "runs/x")[0] == 0
    called = [(args, keywords["stop"], keywords["temperature"]) for _, args, keywords in api.calls]
    assert called == [
        (("runs/x", "hello", None), ["a", "b"], 0.0),
        (("runs/x", Path("p.txt"), Path("o.jsonl")), (), 0.5),
        (("runs/x", "from stdin", None), (), 0.0),
    ]
    assert run("generate", "runs/x", "hello", "--prompts", "p.txt")[0] == 2


def test_evaluate_predict_report_compare(api, run):
    assert (
        run("evaluate", "runs/x", "t.csv", "--column", "text=review")[1]
        == "loss      0.5\naccuracy  0.851235\n"
    )
    assert (
        run("predict", "runs/x", "-", "--out", "p.jsonl", "--device", "cuda:1", "--code", "--keep", "a")[0]
        == 0
    )
    assert run("report", "runs/x")[1] == "runs/x/report.html\n"
    assert run("compare", "runs/x", "runs/y")[1] == "a table\ncompare.html\n"
    called = [
        (name, args, {key: value for key, value in keywords.items() if key != "say"})
        for name, args, keywords in api.calls
    ]
    usual = {"quoting": None, "device": None, "code": False}
    assert called == [
        ("evaluate", ("runs/x", ["t.csv"]), {"columns": {"text": "review"}, **usual}),
        (
            "predict_file",
            ("runs/x", "-", "p.jsonl"),
            {"columns": {}, "keep": ["a"], **usual, "device": "cuda:1", "code": True, "dimension": None},
        ),
        ("report", ("runs/x",), {}),
        ("compare", (["runs/x", "runs/y"],), {}),
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RecipeError("recipe.yaml:1: x: wrong"), 2),
        (DataError("rows"), 2),
        (ModelError("model"), 2),
        (DoesNotFit("needs 9 GiB"), 3),
        (GateMissed("f1_macro"), 4),
        (Diverged("5 in a row"), 5),
        (RunLocked("pid 3"), 6),
    ],
)
def test_errors_are_a_message_and_an_exit_code(api, run, error, code):
    api.answers["train_command"][0] = error
    found, out, err = run("train", "r.yaml")
    assert (found, out, err) == (code, "", f"{error}\n")


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), BigbatchError("impossible")])
def test_a_bug_shows_its_traceback_and_where_to_report(api, run, error):
    # As if a file of bigbatch raised it: this one is code of the user's.
    names = {"error": error}
    file = str(Path(bigbatch.__file__).parent / "api.py")
    exec(compile("def plan(*_words, **_options): raise error", file, "exec"), names)
    api.plan = names["plan"]
    code, _, err = run("plan", "r.yaml")
    assert code == 1
    assert "Traceback" in err and str(error) in err and "Please report" in err


def test_ctrl_c_outside_training(api, run):
    api.answers["plan"][0] = KeyboardInterrupt()
    code, out, err = run("plan", "r.yaml")
    assert (code, out) == (130, "")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train"], "Missing argument 'RECIPE'"),
        (["train", "r.yaml", "--bog"], "No such option"),
        (["train", "r.yaml", "--allow", "clip"], "--allow needs --continue RUN"),
        (["compare", "runs/x"], "at least two runs"),
        (["evaluate", "runs/x", "t.csv", "--column", "text"], "expected ROLE=NAME"),
    ],
)
def test_wrong_words_exit_with_2(api, run, words, part):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert part in err and "Traceback" not in err
    assert api.calls == []


def test_control_characters_from_data_never_reach_the_terminal(api, run):
    api.answers["plan"][0] = ["label \x1b[2Jgone \u202ereversed\rover", "emoji \N{FAMILY} tab\tstays"]
    _, out, _ = run("plan", "r.yaml")
    assert out == "label \\x1b[2Jgone \\u202ereversed\\rover\nemoji \N{FAMILY} tab\tstays\n"
    api.answers["plan"][0] = DataError("row \x1b]0;title\x07")
    assert run("plan", "r.yaml")[2] == "row \\x1b]0;title\\x07\n"


# ---------------------------------------------------------------- what is not loaded

LOADED = "import sys; print(sorted({'torch', 'transformers', 'pandas'} & set(sys.modules)))"


def loaded_after(code):
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{LOADED}"], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "code",
    [
        "from bigbatch.cli import main\ntry: main(['train', 'no-such.yaml'])\n"
        "except SystemExit as end: assert end.code == 2",
        "import bigbatch.recipe.load, bigbatch.recipe.starter, bigbatch.recipe.reference",
        "from bigbatch.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from bigbatch.recipe.load import load_recipe\n"
        "from bigbatch.errors import RecipeError\n"
        "try: load_recipe({'optimizer': {'lrr': 1}})\nexcept RecipeError as error: print(error)\nelse: 1 / 0",
    ],
    ids=["no recipe", "recipe", "help", "recipe error"],
)
def test_words_load_no_torch(code):
    assert loaded_after(code) == "[]"


def test_the_module_runs():
    done = subprocess.run([sys.executable, "-m", "bigbatch", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"bigbatch {bigbatch.__version__}\n")


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    (tmp_path / "r.yaml").write_text("model: m\ndata: {train: t.csv}\n")
    code = (
        "import sys, types, bigbatch\n"
        "bigbatch.commands = sys.modules['bigbatch.commands'] = types.ModuleType('bigbatch.commands')\n"
        "bigbatch.commands.plan = lambda *args, **keywords: ['x' * 99] * 9999\n"
        "from bigbatch.cli import main\n"
        "main(['plan', 'r.yaml'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(timeout=60), process.stderr.read()) == (0, b"")
