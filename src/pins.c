/*
 * pins.c
 *		The settings that output functions go by, pinned while images are made.
 *
 * Step of the path: codec.c asks once for each column what its type's output depends on, and
 * image.c pins what a row needs where the session has it otherwise, which is seldom.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "softaudit.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

/* Settings that a type's output depends on. */
#define PIN_TIMEZONE	0x01
#define PIN_DATESTYLE	0x02
#define PIN_INTERVAL	0x04
#define PIN_BYTEA		0x08
#define PIN_FLOAT		0x10
#define PIN_MONEY		0x20
#define PIN_PATH		0x40
#define PIN_ALL			0x7F

/* What the output of a type depends on, looking through arrays and ranges. */
int
sau_pins_of(Oid typid)
{
	Oid			elem;

	typid = getBaseType(typid);
	switch (typid)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case NAMEOID:
		case CHAROID:
		case UUIDOID:
		case JSONOID:
		case JSONBOID:
		case JSONPATHOID:
		case XMLOID:
		case OIDOID:
		case XIDOID:
		case XID8OID:
		case CIDOID:
		case TIDOID:
		case DATEOID:
		case TIMESTAMPOID:
		case INETOID:
		case CIDROID:
		case MACADDROID:
		case MACADDR8OID:
		case BITOID:
		case VARBITOID:
		case TSVECTOROID:
		case TSQUERYOID:
		case PG_LSNOID:
		case PG_SNAPSHOTOID:
		case INT4RANGEOID:
		case INT8RANGEOID:
		case NUMRANGEOID:
		case INT4MULTIRANGEOID:
		case INT8MULTIRANGEOID:
		case NUMMULTIRANGEOID:
		case INT2VECTOROID:
		case OIDVECTOROID:
		case ACLITEMOID:
			return 0;
		case TIMESTAMPTZOID:
			return PIN_TIMEZONE;
		case TIMEOID:
		case TIMETZOID:
		case DATERANGEOID:
		case DATEMULTIRANGEOID:
		case TSRANGEOID:
		case TSMULTIRANGEOID:
			return PIN_DATESTYLE;
		case TSTZRANGEOID:
		case TSTZMULTIRANGEOID:
			return PIN_DATESTYLE | PIN_TIMEZONE;
		case INTERVALOID:
			return PIN_INTERVAL;
		case BYTEAOID:
			return PIN_BYTEA;
		case FLOAT4OID:
		case FLOAT8OID:
		case POINTOID:
		case LSEGOID:
		case PATHOID:
		case BOXOID:
		case POLYGONOID:
		case LINEOID:
		case CIRCLEOID:
			return PIN_FLOAT;
		case CASHOID:
			return PIN_MONEY;
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGCOLLATIONOID:
		case REGTYPEOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
			return PIN_PATH;
		default:
			break;
	}
	elem = get_element_type(typid);
	if (OidIsValid(elem))
		return sau_pins_of(elem);
	if (get_typtype(typid) == TYPTYPE_ENUM)
		return 0;
	return PIN_ALL;
}

/* Which of these settings stand otherwise than images want them. */
static int
settings_off(int pins)
{
	int			off = 0;

	if ((pins & PIN_TIMEZONE) && strcmp(pg_get_timezone_name(session_timezone), "UTC") != 0)
		off |= PIN_TIMEZONE;
	if ((pins & PIN_DATESTYLE) && DateStyle != USE_ISO_DATES)
		off |= PIN_DATESTYLE;
	if ((pins & PIN_INTERVAL) && IntervalStyle != INTSTYLE_POSTGRES)
		off |= PIN_INTERVAL;
	if ((pins & PIN_BYTEA) && bytea_output != BYTEA_OUTPUT_HEX)
		off |= PIN_BYTEA;
	if ((pins & PIN_FLOAT) && extra_float_digits != 1)
		off |= PIN_FLOAT;
	if ((pins & PIN_MONEY) && strcmp(GetConfigOption("lc_monetary", false, false), "C") != 0)
		off |= PIN_MONEY;
	if ((pins & PIN_PATH) &&
		(strcmp(namespace_search_path, "pg_catalog") != 0 || quote_all_identifiers))
		off |= PIN_PATH;
	return off;
}

static void
set_one(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Pin the settings that are off; returns the nest level to hand to sau_pins_reset(), or 0
 * where nothing had to be done.  An error unwinds it with its (sub)transaction.
 */
int
sau_pins_set(int pins)
{
	int			off;
	int			level;

	if (pins == 0 || (off = settings_off(pins)) == 0)
		return 0;
	level = NewGUCNestLevel();
	if (off & PIN_TIMEZONE)
		set_one("TimeZone", "UTC");
	if (off & PIN_DATESTYLE)
		set_one("DateStyle", "ISO");
	if (off & PIN_INTERVAL)
		set_one("IntervalStyle", "postgres");
	if (off & PIN_BYTEA)
		set_one("bytea_output", "hex");
	if (off & PIN_FLOAT)
		set_one("extra_float_digits", "1");
	if (off & PIN_MONEY)
		set_one("lc_monetary", "C");
	if (off & PIN_PATH)
	{
		set_one("search_path", "pg_catalog");
		set_one("quote_all_identifiers", "off");
	}
	return level;
}

void
sau_pins_reset(int level)
{
	if (level > 0)
		AtEOXact_GUC(true, level);
}

/* Pin all settings, for a caller that converts values by itself. */
int
sau_pins_set_all(void)
{
	return sau_pins_set(PIN_ALL);
}
