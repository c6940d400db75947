# Plain commands; each does all its set-up by itself on a fresh machine with Python 3.11 or newer.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.14 python3; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
OIDC := tests/bed/oidc

.PHONY: demo test check lint types format reference lock bench clean dovecot servers

demo: $(VENV)/.demo  ## Local servers, four mailboxes, three outputs: see it work (ARGS=--once for scripts)
	@$(BIN)/mailquay demo $(ARGS)

test: $(VENV)/.dev dovecot servers $(OIDC)/node_modules/.installed  ## Everything; ends with pytest's line (ARGS="-k name" for some)
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: lint types  ## What a commit has to pass, without servers
	@$(BIN)/python -m pytest -q tests/unit tests/test_architecture.py tests/test_docs.py $(ARGS)

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.dev
	@$(BIN)/mypy

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

reference: $(VENV)/.dev  ## Write .env.example and docs/configuration.md anew
	@$(BIN)/python -m worker.reference

lock: $(VENV)/.dev  ## Resolve the newest dependencies into the lock files
	@scripts/lock $(BIN)/uv
	@$(BIN)/npm update --prefix $(OIDC) --package-lock-only --ignore-scripts --no-audit --no-fund

bench: $(VENV)/.dev dovecot  ## Speed beside imaplib, mbsync and getmail6
	@$(BIN)/python -m bench $(ARGS)

dovecot:  # The tests need a real Dovecot; installed when this user may, else a sentence says how.
	@scripts/install-dovecot

servers:  # A second mail server, a database and a broker, unpacked beside the tests and not installed.
	@scripts/fetch-servers tests/bed/cyrus-imapd \
	  "usr/lib/cyrus/bin/master usr/lib/cyrus/bin/imapd usr/lib/cyrus/bin/pop3d usr/lib/cyrus/bin/ctl_cyrusdb" \
	  cyrus-common cyrus-imapd cyrus-pop3d
	@scripts/fetch-servers tests/bed/mariadb-server usr/sbin/mariadbd mariadb-server-core
	@scripts/fetch-servers tests/bed/rabbitmq-server "usr/lib/erlang/erts-*/bin/beam.smp" \
	  rabbitmq-server erlang-base erlang-asn1 erlang-crypto erlang-eldap erlang-ftp erlang-inets erlang-mnesia \
	  erlang-os-mon erlang-parsetools erlang-public-key erlang-runtime-tools erlang-ssl erlang-syntax-tools \
	  erlang-tools erlang-xmerl

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Mailquay needs Python 3.11 or newer with venv and pip (on Debian: apt install python3-venv)." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing Mailquay into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing Mailquay and its tests' tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@ $(VENV)/.demo

# An identity provider that nobody here wrote; Node and npm came with the tests' tools. No package runs a script.
$(OIDC)/node_modules/.installed: $(OIDC)/package-lock.json | $(VENV)/.dev
	@echo "Installing oidc-provider into $(OIDC) ..."
	@$(BIN)/npm ci --prefix $(OIDC) --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

clean:
	rm -rf $(VENV) $(OIDC)/node_modules tests/bed/*-server tests/bed/cyrus-imapd demo-data .pytest_cache .mypy_cache .ruff_cache
