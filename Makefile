# Every target makes its own environment in .venv; `make demo` and `make test` work on a clean clone.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check format docs soak coverage gpu

demo: .venv/runtime
	@$(BIN)/otherview demo $(DEMO)

test: .venv/development
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m "not slow and not soak and not gpu"
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m "slow and not soak and not gpu" --durations 12

check: .venv/development
	$(BIN)/ruff format --check otherview tests
	$(BIN)/ruff check otherview tests
	$(BIN)/basedpyright --level error
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m "not slow and not soak and not gpu"
	$(MAKE) docs

format: .venv/development
	$(BIN)/ruff format otherview tests
	$(BIN)/ruff check --fix otherview tests

docs: .venv/development
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

soak: .venv/development
	$(BIN)/python -m pytest -q -m soak; status=$$?; [ $$status -eq 5 ] || exit $$status

gpu: .venv/development
	$(BIN)/python -m tests.gpu_report gpu

coverage: .venv/development
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m "not slow and not soak and not gpu" --cov otherview --cov-branch --cov-report term

.venv/runtime: pyproject.toml
	@began=$$(date +%s); \
	$(PYTHON) -m venv .venv && $(BIN)/pip install --quiet --editable . && touch $@ && \
	echo "installed in $$(( $$(date +%s) - began )) s"

.venv/development: pyproject.toml
	$(PYTHON) -m venv .venv && $(BIN)/pip install --quiet --editable '.[dev]' && touch $@
