"""Where variables come from, which one wins, and what is said of those that mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.env import VALUE_LIMIT, Entry, Environment, Section, named, read, resolve
from worker.errors import Problem

NAMES = {"ENV_FILE", "MAILBOX_DIR", "REDIS_URL", "DATA_DIR", "TOKEN_KEYS_FILE", "LOG_LEVEL"}
SECRET = "pa$$w${HOME}rd # 'with' everything"


def gather(cwd: Path, **environ: str) -> Environment:
    return read(environ, cwd=cwd, names=NAMES)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def values(environment: Environment) -> dict[str, str]:
    return {key: entry.value for key, entry in environment.values.items()}


def lines(environment: Environment) -> list[str]:
    return [str(problem) for problem in environment.problems]


def section(prefix: str, **entries: str) -> Section:
    return Section(prefix, {key: Entry(f"{prefix}{key}", value) for key, value in entries.items()})


def told(entries: Section, *fields: str, cwd: Path = Path()) -> tuple[dict[str, str], list[Problem]]:
    said, problems = resolve(entries, fields, cwd=cwd)
    return {field: entry.value for field, entry in said.items()}, problems


def test_the_process_environment_beats_files(tmp_path: Path) -> None:
    """What the process says wins over every file, and an entry knows where it was written."""
    write(tmp_path / ".env", "MAILBOX__A__HOST=file\nMAILBOX__A__PORT=993\nMAILBOX_DIR=boxes\n")
    write(tmp_path / "boxes/b.env", "HOST=file\nPORT=995\n")

    environment = gather(tmp_path, MAILBOX__A__HOST="process", MAILBOX__B__HOST="process")

    assert environment.problems == ()
    assert values(environment) == {
        "MAILBOX__A__HOST": "process",
        "MAILBOX__A__PORT": "993",
        "MAILBOX_DIR": "boxes",
        "MAILBOX__B__HOST": "process",
        "MAILBOX__B__PORT": "995",
    }
    assert environment.values["MAILBOX__A__HOST"].origin == "environment"
    assert environment.values["MAILBOX__A__PORT"].origin == ".env"
    assert environment.values["MAILBOX__B__PORT"].origin == "boxes/b.env"


def test_a_later_env_file_beats_an_earlier_one_and_an_absent_one_says_nothing(tmp_path: Path) -> None:
    """`ENV_FILE` is a list in rising order of weight."""
    write(tmp_path / "first", "LOG_LEVEL=debug\nDATA_DIR=first\n")
    write(tmp_path / "second", "LOG_LEVEL=error\n")
    write(tmp_path / ".env", "REDIS_URL=not-read\n")

    environment = gather(tmp_path, ENV_FILE="first, absent ,second")

    assert environment.problems == ()
    assert values(environment) == {
        "ENV_FILE": "first, absent ,second",
        "LOG_LEVEL": "error",
        "DATA_DIR": "first",
    }


def test_foreign_variables_are_left_alone(tmp_path: Path) -> None:
    """Neither the process environment nor an env file is complained about for what belongs to others."""
    write(tmp_path / ".env", "COMPOSE_PROJECT_NAME=mail\nPATH=/bin\nFOO__BAR=1\nFOO__BAR=2\nexport FLAG\n")

    environment = gather(tmp_path, HOME="/home", REDIS_PORT="1", mailbox__a__host="x", MAILBOXES__A__HOST="x")

    assert environment == Environment({}, ())


def test_a_dollar_sign_in_a_secret_arrives_as_it_was_written(tmp_path: Path) -> None:
    """Nothing is interpolated, quoted or not."""
    write(tmp_path / ".env", "MAILBOX__A__PASSWORD=pa$$w${HOME}rd\nMAILBOX__B__PASSWORD='a $HOME # b'\n")

    environment = gather(tmp_path, HOME="/home")

    assert values(environment) == {
        "MAILBOX__A__PASSWORD": "pa$$w${HOME}rd",
        "MAILBOX__B__PASSWORD": "a $HOME # b",
    }


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("REDIS_URI", "REDIS_URL"),
        ("DATADIR", "DATA_DIR"),
        ("log_level", "LOG_LEVEL"),
        ("MAILBOXES__A__HOST", "MAILBOX__A__HOST"),
        ("MAILBOX_DEFAULT__EVERY", "MAILBOX_DEFAULTS__EVERY"),
        ("OUTPUTS__CRM__URL", "OUTPUT__CRM__URL"),
        ("mailbox__a__host", "MAILBOX__A__HOST"),
        ("MAILBOX_SUPPORT_HOST", "MAILBOX__NAME__KEY"),
        ("MAILBOX_SUPPORT__HOST", "MAILBOX__NAME__KEY"),
    ],
)
def test_a_misspelled_variable_in_an_env_file_is_a_problem(tmp_path: Path, key: str, meant: str) -> None:
    """An env file is ours, so a key that is nearly one of ours was meant to be it."""
    write(tmp_path / ".env", f"{key}={SECRET}\n")

    environment = gather(tmp_path)

    assert lines(environment) == [f"{key}: unknown; did you mean {meant}? (in .env)"]


def test_an_env_file_that_is_a_folder_is_a_problem(tmp_path: Path) -> None:
    """Docker makes a folder of a bind mount whose file is missing."""
    (tmp_path / ".env").mkdir()

    assert lines(gather(tmp_path)) == ["ENV_FILE: .env cannot be read: is a directory"]


def test_an_env_file_that_is_no_text_is_a_problem(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are not guessed at."""
    (tmp_path / ".env").write_bytes(b"LOG_LEVEL=\xff\xfe\n")

    assert lines(gather(tmp_path)) == ["ENV_FILE: .env cannot be read: it is not UTF-8 text"]


def test_a_line_that_is_no_assignment_is_a_problem_with_its_number(tmp_path: Path) -> None:
    """A quote left open would otherwise swallow a setting without a word."""
    write(tmp_path / ".env", f'# a comment\n\n\nLOG_LEVEL="{SECRET}\nDATA_DIR=x\n\nREDIS_URL\n')

    environment = gather(tmp_path)

    assert lines(environment) == [
        "ENV_FILE: line 4 of .env is not KEY=value; check its quotes",
        "REDIS_URL: has no = on line 7 of .env; correct that line",
    ]
    assert values(environment) == {"DATA_DIR": "x"}


def test_a_key_set_twice_in_one_file_is_a_problem(tmp_path: Path) -> None:
    """Of two values nobody can say which was meant."""
    write(tmp_path / ".env", "MAILBOX__A__HOST=one\n\nMAILBOX__A__HOST=two\n")

    assert lines(gather(tmp_path)) == [
        "MAILBOX__A__HOST: is set again on line 3 of .env; correct that line",
    ]


def test_env_file_inside_a_file_is_a_problem(tmp_path: Path) -> None:
    """It would be read too late to mean anything."""
    write(tmp_path / ".env", "ENV_FILE=other\n")

    assert lines(gather(tmp_path)) == [
        "ENV_FILE: has no effect in a file; set it in the process environment (in .env)",
    ]


def test_a_file_of_the_mailbox_folder_is_one_mailbox(tmp_path: Path) -> None:
    """The name of the file is the name of the mailbox; hidden files and other endings are not read."""
    write(tmp_path / "boxes/support.env", "PROVIDER=gmail\nPASSWORD_FILE=secret\n")
    write(tmp_path / "boxes/.hidden.env", "PROVIDER=gmail\n")
    write(tmp_path / "boxes/support.env~", "PROVIDER=generic\n")

    environment = gather(tmp_path, MAILBOX_DIR=str(tmp_path / "boxes"))

    assert environment.problems == ()
    assert values(environment) == {
        "MAILBOX_DIR": str(tmp_path / "boxes"),
        "MAILBOX__SUPPORT__PROVIDER": "gmail",
        "MAILBOX__SUPPORT__PASSWORD_FILE": "secret",
    }


def test_a_mailbox_folder_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    """A folder that was asked for has to exist; where it was looked for is not shown."""
    environment = gather(tmp_path, MAILBOX_DIR="no-such-folder")

    assert lines(environment) == [
        "MAILBOX_DIR: the folder it names cannot be read: no such file or directory"
    ]


def test_a_dangling_link_in_the_mailbox_folder_is_a_problem(tmp_path: Path) -> None:
    """A mailbox does not vanish because its file went away under its name."""
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes/a.env").symlink_to("gone")

    assert lines(gather(tmp_path, MAILBOX_DIR="boxes")) == [
        "MAILBOX_DIR: boxes/a.env cannot be read: no such file or directory"
    ]


def test_a_file_in_the_mailbox_folder_with_an_impossible_name_is_a_problem(tmp_path: Path) -> None:
    """Double underscores and spaces cannot stand in the name of a mailbox."""
    write(tmp_path / "boxes/a__b.env", "PROVIDER=gmail\n")
    write(tmp_path / "boxes/my box.env", "PROVIDER=gmail\n")

    environment = gather(tmp_path, MAILBOX_DIR="boxes")

    assert [problem.variable for problem in environment.problems] == ["MAILBOX_DIR", "MAILBOX_DIR"]
    assert "a__b.env" in lines(environment)[0]
    assert "my box.env" in lines(environment)[1]


def test_two_files_that_differ_in_case_are_two_mailboxes_with_one_name(tmp_path: Path) -> None:
    """`support.env` and `SUPPORT.env` cannot both be the mailbox support."""
    write(tmp_path / "boxes/support.env", "PROVIDER=gmail\n")
    write(tmp_path / "boxes/SUPPORT.env", "PROVIDER=generic\n")
    if len(list((tmp_path / "boxes").iterdir())) == 1:
        pytest.skip("this file system does not tell letter case apart")

    assert lines(gather(tmp_path, MAILBOX_DIR="boxes")) == [
        "MAILBOX_DIR: SUPPORT.env and support.env are one mailbox; merge them"
    ]


def test_a_mailbox_in_its_own_file_and_in_an_env_file_with_the_same_key_is_a_problem(tmp_path: Path) -> None:
    """Two mailboxes with one name; but the two files may complete each other with different keys."""
    write(tmp_path / ".env", f"MAILBOX__SUPPORT__HOST={SECRET}\nMAILBOX__SUPPORT__PASSWORD=x\n")
    write(tmp_path / "boxes/support.env", "HOST=two\nPORT=993\n")

    environment = gather(tmp_path, MAILBOX_DIR="boxes")

    assert lines(environment) == [
        "MAILBOX__SUPPORT__HOST: is set in .env and again in boxes/support.env; remove one of them"
    ]


def test_two_spellings_of_one_name_are_a_problem(tmp_path: Path) -> None:
    """Names are lower-cased, so Support and SUPPORT are one mailbox written as two."""
    environment = gather(
        tmp_path, MAILBOX__SUPPORT__HOST="a", MAILBOX__Support__HOST="b", OUTPUT__A__TYPE="x"
    )

    sections, problems = named(environment.values, "MAILBOX")

    assert list(sections) == ["support"]
    assert problems == [
        Problem("MAILBOX__Support__HOST", "says support again, beside MAILBOX__SUPPORT__…; use one spelling")
    ]


def test_sections_are_sorted_by_lower_case_name(tmp_path: Path) -> None:
    """A section keeps the prefix as it was written, for problems to name."""
    environment = gather(
        tmp_path, MAILBOX__My_Box__HOST="a", MAILBOX__b2__HOST="b", MAILBOX_DEFAULTS__HOST="c"
    )

    sections, problems = named(environment.values, "MAILBOX")

    assert problems == []
    assert {name: (found.prefix, list(found.entries)) for name, found in sections.items()} == {
        "my_box": ("MAILBOX__My_Box__", ["HOST"]),
        "b2": ("MAILBOX__b2__", ["HOST"]),
    }


@pytest.mark.parametrize(
    "variable", ["MAILBOX__A", "MAILBOX__A__", "MAILBOX__", "MAILBOX__Ä__HOST", "MAILBOX___A__HOST"]
)
def test_a_variable_with_an_impossible_name_is_a_problem(tmp_path: Path, variable: str) -> None:
    """A name holds letters, digits, - and single underscores; something has to follow it."""
    environment = gather(tmp_path, **{variable: SECRET})

    sections, problems = named(environment.values, "MAILBOX")

    assert sections == {}
    assert [problem.variable for problem in problems] == [variable]


def test_an_unknown_key_suggests_the_nearest_known_one() -> None:
    """A typo under one of our prefixes is never ignored."""
    said, problems = told(section("MAILBOX__SUPPORT__", HSOT=SECRET, host="x", ZZZ="1"), "host", "port")

    assert said == {}
    assert problems == [
        Problem("MAILBOX__SUPPORT__HSOT", "unknown; did you mean MAILBOX__SUPPORT__HOST?"),
        Problem("MAILBOX__SUPPORT__host", "unknown; did you mean MAILBOX__SUPPORT__HOST?"),
        Problem("MAILBOX__SUPPORT__ZZZ", "unknown; the keys are HOST, PORT"),
    ]


def test_file_works_on_every_key_and_strips_one_newline(tmp_path: Path) -> None:
    """The value is what the file holds, without the newline that editors add, and without losing another."""
    (tmp_path / "unix").write_bytes(f"{SECRET}\n\n".encode())
    (tmp_path / "windows").write_bytes(f"{SECRET}\r\n".encode())
    (tmp_path / "plain").write_bytes(SECRET.encode())

    said, problems = told(
        section("X__", A_FILE="unix", B_FILE=str(tmp_path / "windows"), C_FILE="plain"),
        "a",
        "b",
        "c",
        cwd=tmp_path,
    )

    assert problems == []
    assert said == {"a": f"{SECRET}\n", "b": SECRET, "c": SECRET}


def test_a_problem_with_a_value_from_a_file_names_the_variable_that_named_the_file(tmp_path: Path) -> None:
    """The person has to touch PASSWORD_FILE, not PASSWORD."""
    write(tmp_path / "secret", SECRET)

    said, _ = resolve(section("X__", PASSWORD_FILE="secret"), ["password"], cwd=tmp_path)

    assert said["password"].variable == "X__PASSWORD_FILE"
    assert SECRET not in repr(said)


def test_a_key_whose_own_name_ends_in_file_is_itself(tmp_path: Path) -> None:
    """CA_FILE is a path, not the file of a key called CA; CA_FILE_FILE is read."""
    write(tmp_path / "where", "/etc/ca.pem\n")

    assert told(section("X__", CA_FILE="ca.pem"), "ca_file", "ca") == ({"ca_file": "ca.pem"}, [])
    assert told(section("X__", CA_FILE_FILE="where"), "ca_file", cwd=tmp_path) == (
        {"ca_file": "/etc/ca.pem"},
        [],
    )


def test_a_key_and_its_file_both_set_is_a_problem(tmp_path: Path) -> None:
    """Neither wins silently; but an empty one does not count."""
    write(tmp_path / "secret", SECRET)

    assert told(section("X__", PASSWORD=SECRET, PASSWORD_FILE="secret"), "password", cwd=tmp_path)[1] == [
        Problem("X__PASSWORD_FILE", "is set beside X__PASSWORD; remove one of them")
    ]
    assert told(section("X__", PASSWORD="", PASSWORD_FILE="secret"), "password", cwd=tmp_path) == (
        {"password": SECRET},
        [],
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: no such file or directory"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff", "cannot be read: it is not UTF-8 text"),
        (b"x" * (VALUE_LIMIT + 1), "is longer than 64 KiB, so it is not the file of one value"),
    ],
)
def test_an_unreadable_file_is_a_problem_that_does_not_show_its_path(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    """The path may be a password that landed in the wrong variable."""
    if content is not None:
        (tmp_path / "hunter2").write_bytes(content)

    said, problems = told(section("X__", PASSWORD_FILE="hunter2"), "password", cwd=tmp_path)

    assert said == {}
    assert problems == [Problem("X__PASSWORD_FILE", f"the file it names {why}")]


def test_a_folder_instead_of_a_file_is_a_problem(tmp_path: Path) -> None:
    """A mounted secret that is missing often is an empty folder."""
    assert told(section("X__", PASSWORD_FILE="."), "password", cwd=tmp_path)[1] == [
        Problem("X__PASSWORD_FILE", "the file it names cannot be read: is a directory")
    ]


def test_an_empty_value_counts_as_not_said() -> None:
    """`${VARIABLE:-}` in a compose file hands over an empty value."""
    assert told(section("X__", HOST="", PASSWORD_FILE=""), "host", "password") == ({}, [])


def test_an_empty_process_variable_takes_back_what_a_file_says(tmp_path: Path) -> None:
    """The process environment beats files also with nothing."""
    write(tmp_path / ".env", "REDIS_URL=redis://file/0\n")

    environment = gather(tmp_path, REDIS_URL="")

    assert resolve(Section("", environment.values), ["redis_url"], cwd=tmp_path) == ({}, [])


def test_the_mailbox_folder_can_be_named_by_a_file(tmp_path: Path) -> None:
    """`_FILE` works on MAILBOX_DIR too, although it is needed before everything else is read."""
    write(tmp_path / "where", "boxes\n")
    write(tmp_path / "boxes/a.env", "HOST=x\n")

    environment = gather(tmp_path, MAILBOX_DIR_FILE="where")

    assert environment.values["MAILBOX__A__HOST"].value == "x"
    assert environment.problems == ()
