# Sets webhookd up, runs it and tests it; `make help` lists what there is.
#
# Everything lands in .venv, from setup.cfg. What the tests need of the system comes from Debian's packages, and only if
# it is missing: as root at once, else through sudo.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MADE_FROM := setup.cfg pyproject.toml Makefile
KILLS := 200
THOROUGH := --rounds=5 --pause=20 --outage=600 --mixed=1800
NEEDED := curl:curl openssl:openssl strace:strace systemd-analyze:systemd unshare:util-linux mount:mount ps:procps
NEEDED += rabbitmq-server:rabbitmq-server etcd:etcd-server etcdctl:etcd-client prometheus:prometheus
NEEDED += chromium:chromium chromedriver:chromium-driver
NEEDED += zsh:zsh fish:fish sqlite3:sqlite3 /usr/sbin/nginx:nginx
BENCHED := build/bench
BENCH := PYTHONPATH=tests $(BIN)/python -m bench
GO_AMQP := /usr/share/gocode/src/github.com/rabbitmq/amqp091-go/doc.go

.DEFAULT_GOAL := help
.PHONY: help run test lint pytest faults bench growth memory profile load-tools clean

help:  ## List the targets.
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

run: $(VENV)/run.stamp  ## Run webhookd with a hook ready to be tried; ARGS="--listen 127.0.0.1:9000" adds flags.
	@.ci/need curl:curl
	@$(BIN)/webhookd dev $(ARGS)

test: lint pytest  ## Check style and types, run every test, ask for 95 % of all branches.

lint: $(VENV)/test.stamp  ## Check style (ruff) and types (mypy).
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict

pytest: $(VENV)/test.stamp
	@.ci/need $(NEEDED)
	rm -f .coverage .coverage.*
	$(BIN)/coverage run $(BIN)/pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=95

faults: $(VENV)/test.stamp  ## Bring every fault about for hours, KILLS=200 kills among them, and tell what is lost.
	@.ci/need $(NEEDED)
	$(BIN)/pytest tests/faults --kills=$(KILLS) $(THOROUGH) $(ARGS)

bench: $(VENV)/test.stamp load-tools $(BENCHED)/fastify.stamp $(BENCHED)/go-server  ## Compare webhookd with three other servers; ARGS=--quick takes a minute or two.
	@$(BENCH).compare $(ARGS)

growth: $(VENV)/test.stamp load-tools  ## Measure a delivery as bodies, hooks, senders, tenants grow; ARGS=--quick.
	@$(BENCH).growth $(ARGS)

memory: $(VENV)/test.stamp load-tools  ## Measure memory where it might swell; ARGS=--quick.
	@$(BENCH).memory $(ARGS)

profile: $(VENV)/test.stamp load-tools  ## Draw where a loaded daemon spends its time: build/bench/profile.svg.
	@$(BENCH).flame $(ARGS)

load-tools:
	@.ci/need wrk:wrk rabbitmq-server:rabbitmq-server etcd:etcd-server etcdctl:etcd-client

$(BENCHED)/fastify.stamp: $(wildcard tests/bench/baselines/fastify/*)
	@.ci/need node:nodejs npm:npm
	@node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)' || { \
	    echo "Fastify needs Node 20 or newer in PATH; this is $$(node --version)" >&2; exit 1; }
	@mkdir -p $(BENCHED)/fastify
	@cp $^ $(BENCHED)/fastify
	@npm ci --prefix $(BENCHED)/fastify --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(BENCHED)/go-server: tests/bench/baselines/go/main.go
	@.ci/need go:golang-go $(GO_AMQP):golang-github-rabbitmq-amqp091-go-dev
	@mkdir -p $(BENCHED)
	@GO111MODULE=off GOPATH=/usr/share/gocode go build -o $@ $<

clean:  ## Remove what these targets made.
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/run.stamp: $(MADE_FROM) | $(BIN)/python
	@echo "Installing webhookd into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/test.stamp: $(MADE_FROM) | $(BIN)/python
	@echo "Installing webhookd and what its tests need into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(VENV)/run.stamp

$(BIN)/python:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/need python3-venv:python3-venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "webhookd needs Python 3.11 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
