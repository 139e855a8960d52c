/*
 * compat.h
 *		Every difference between the supported major versions of PostgreSQL.
 *
 * The only file that names PG_VERSION_NUM.
 */
#ifndef SOFTAUDIT_COMPAT_H
#define SOFTAUDIT_COMPAT_H

#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "common/jsonapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "replication/origin.h"
#include "utils/acl.h"
#include "utils/jsonb.h"
#include "utils/rel.h"

#if PG_VERSION_NUM < 150000
#error "softaudit needs PostgreSQL 15 or later"
#endif

/* 16 folded the per-catalog ownership checks into one. */
static inline bool
sau_compat_owns_relation(Oid relid, Oid roleid)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(RelationRelationId, relid, roleid);
#else
	return pg_class_ownercheck(relid, roleid);
#endif
}

static inline bool
sau_compat_may_execute(Oid funcid, Oid roleid)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ProcedureRelationId, funcid, roleid, ACL_EXECUTE) == ACLCHECK_OK;
#else
	return pg_proc_aclcheck(funcid, roleid, ACL_EXECUTE) == ACLCHECK_OK;
#endif
}

/* 17 lets an index keep state over the inserts of a statement. */
static inline void
sau_compat_index_insert_done(Relation index, struct IndexInfo *info)
{
#if PG_VERSION_NUM >= 170000
	index_insert_cleanup(index, info);
#endif
}

/* 18 lets an index scan be instrumented, 19 adds flags. */
static inline struct IndexScanDescData *
sau_compat_index_beginscan(Relation heap, Relation index, struct SnapshotData *snapshot, int nkeys)
{
#if PG_VERSION_NUM >= 190000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0, SO_NONE);
#elif PG_VERSION_NUM >= 180000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(heap, index, snapshot, nkeys, 0);
#endif
}

/* 19 renamed what tells where a change was replicated from. */
static inline uint16
sau_compat_session_origin(void)
{
#if PG_VERSION_NUM >= 190000
	return replorigin_xact_state.origin;
#else
	return replorigin_session_origin;
#endif
}

#if PG_VERSION_NUM < 190000
#define InvalidReplOriginId InvalidRepOriginId
#endif

/* 18 has generated columns that are computed when they are read. */
#if PG_VERSION_NUM >= 180000
#define SAU_HAVE_VIRTUAL_COLUMNS
#endif

static inline bool
sau_compat_is_virtual(Form_pg_attribute att)
{
#if PG_VERSION_NUM >= 180000
	return att->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL;
#else
	return false;
#endif
}

/* 17 takes the lexer as caller's memory. */
static inline JsonLexContext *
sau_compat_json_lexer(char *json, int len)
{
#if PG_VERSION_NUM >= 170000
	return makeJsonLexContextCstringLen(NULL, json, len, GetDatabaseEncoding(), true);
#else
	return makeJsonLexContextCstringLen(json, len, GetDatabaseEncoding(), true);
#endif
}

/* 16 gave the callbacks of the JSON parser a result. */
#if PG_VERSION_NUM >= 160000
typedef JsonParseErrorType SauJsonActionResult;
#define SAU_JSON_ACTION_RETURN return JSON_SUCCESS
#else
typedef void SauJsonActionResult;
#define SAU_JSON_ACTION_RETURN return
#endif

/* 19 keeps the result of building a JSONB value in the state. */
#if PG_VERSION_NUM >= 190000
typedef JsonbInState SauJsonbState;
#else
typedef struct SauJsonbState
{
	JsonbParseState *parseState;
	JsonbValue *result;
} SauJsonbState;
#endif

static inline void
sau_compat_push_jsonb(SauJsonbState *state, JsonbIteratorToken token, JsonbValue *value)
{
#if PG_VERSION_NUM >= 190000
	pushJsonbValue(state, token, value);
#else
	state->result = pushJsonbValue(&state->parseState, token, value);
#endif
}

#endif							/* SOFTAUDIT_COMPAT_H */
