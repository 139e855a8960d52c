# softaudit: a deletion strategy built into PostgreSQL

EXTENSION = softaudit
EXTVERSION = 1.0

MODULE_big = softaudit
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))
DATA_built = softaudit--$(EXTVERSION).sql
SQL_PARTS = $(sort $(wildcard sql/*.sql))

TESTS = $(sort $(wildcard test/sql/*.sql))
REGRESS = $(patsubst test/sql/%.sql,%,$(TESTS))
REGRESS_OPTS = --inputdir=test --load-extension=softaudit
ISOLATION = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test --load-extension=softaudit
TAP_TESTS = 1
PROVE_TESTS = test/t/*.pl

EXTRA_CLEAN = softaudit--$(EXTVERSION).sql results output_iso tmp_check tmp_check_iso log

PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -Wno-sign-compare -Wno-clobbered
ifdef WERROR
PG_CFLAGS += -Werror
endif

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): src/softaudit.h src/compat.h

# The parts in path order; the guard of the first must stay the first line.
softaudit--$(EXTVERSION).sql: $(SQL_PARTS)
	cat $(SQL_PARTS) > $@
