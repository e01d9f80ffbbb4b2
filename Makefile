# What a newcomer runs. Each target makes its own environment in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
REAL := $(VENV)/.installed-real
CLIENTS_VENV := .venv-clients
CLIENTS := $(CLIENTS_VENV)/.installed
TEST_PROCESSES ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install test check clients serve demo demo-real bench docs clean

help:  ## Show these lines
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

install: $(STAMP)  ## Make .venv and install the project into it

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]' || { \
	  echo "The tests need a C compiler and Python's headers (for pycosat); without them there is all else:"; \
	  $(BIN)/pip install --quiet -c constraints.txt -e '.[data,demo,gguf,large,lora,mlflow,tensorboard]'; }
	@touch $(STAMP)

check: $(STAMP)  ## Lint, types and import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## Everything that must hold: check, then all tests
	@$(MAKE) --no-print-directory $(CLIENTS) || echo "Clients of others could not be installed; their tests are skipped."
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile -m 'not slow and not alone'
	$(BIN)/python -m pytest -m 'alone and not slow'

# Over the project's environment, whose packages are found where the clients pin no other version of them.
$(CLIENTS): tests/clients/requirements.txt $(STAMP)
	rm -rf $(CLIENTS_VENV)
	$(BIN)/python -m venv $(CLIENTS_VENV)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	  "$$($(CLIENTS_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beneath.pth"
	$(CLIENTS_VENV)/bin/pip install --quiet --no-deps -r tests/clients/requirements.txt
	@touch $(CLIENTS)

clients: $(CLIENTS)  ## Other people's clients, unmodified, against the service; writes docs/clients.md
	$(BIN)/python -m pytest tests/clients --clients-table docs/clients.md

serve: $(STAMP)  ## The whole stack, kept running; prints its URL, keys and a first curl
	$(BIN)/lepo up

demo: $(STAMP)  ## The whole circle in minutes: serve, grade, learn, swap; exits 0 when the policy got better
	$(BIN)/lepo demo

$(REAL): $(STAMP)
	@$(BIN)/pip install --quiet -c constraints.txt -e '.[demo,gguf,gym]' || { \
	  echo "make demo-real needs reasoning-gym, and that a C compiler and Python's headers (for pycosat)"; exit 1; }
	@touch $(REAL)

demo-real: $(REAL)  ## The same circle with SmolLM2-135M on sums of reasoning-gym: half an hour on two cores
	$(BIN)/lepo demo --real

bench: $(STAMP)  ## The measurements of the engine, the swap and the server
	$(BIN)/lepo bench engine --json
	$(BIN)/lepo bench swap --json
	$(BIN)/lepo bench http --json

docs: $(STAMP)  ## The documentation as a site, in site/; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Look at it: $(BIN)/python -m http.server --directory site 8080"

clean:  ## Remove the environment and everything the stack wrote
	rm -rf $(VENV) $(CLIENTS_VENV) var site
