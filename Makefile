# Each target is a task of bootstrap.py, which is what Windows uses: `python bootstrap.py setup`.
PYTHON ?= python3
TASKS := setup demo test quick check serve bench front bundle lock

.PHONY: $(TASKS)
$(TASKS):
	@$(PYTHON) bootstrap.py $@ $(ARGS)
