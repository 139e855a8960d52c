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
#include "access/sysattr.h"
#include "access/tableam.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "common/jsonapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "optimizer/clauses.h"
#include "optimizer/planner.h"
#include "optimizer/prep.h"
#include "parser/parse_relation.h"
#include "replication/origin.h"
#include "tcop/pquery.h"
#include "utils/acl.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/syscache.h"

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

/* 17 lets the expression of a generated column be changed. */
static inline bool
sau_compat_sets_expression(int subtype)
{
#if PG_VERSION_NUM >= 170000
	return subtype == AT_SetExpression;
#else
	return false;
#endif
}

static inline bool
sau_compat_owns_schema(Oid nspid, Oid roleid)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(NamespaceRelationId, nspid, roleid);
#else
	return pg_namespace_ownercheck(nspid, roleid);
#endif
}

static inline Oid
sau_compat_relation_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* 17 lets an index keep state over the inserts of a statement. */
static inline void
sau_compat_index_insert_done(Relation index, struct IndexInfo *info)
{
#if PG_VERSION_NUM >= 170000
	index_insert_cleanup(index, info);
#endif
}

/* 16 extends a relation by more than a page. */
#if PG_VERSION_NUM >= 160000
#define SAU_HAVE_EXTEND_BY
#endif

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

static inline bool
sau_compat_has_virtual(TupleDesc desc)
{
#if PG_VERSION_NUM >= 180000
	return desc->constr && desc->constr->has_generated_virtual;
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

/* 19 hands EXPLAIN's state to the planner. */
#if PG_VERSION_NUM >= 190000
#define SAU_PLANNER_PARAMS Query *parse, const char *query_string, int cursorOptions, ParamListInfo boundParams, ExplainState *es
#define SAU_PLANNER_ARGS parse, query_string, cursorOptions, boundParams, es
#else
#define SAU_PLANNER_PARAMS Query *parse, const char *query_string, int cursorOptions, ParamListInfo boundParams
#define SAU_PLANNER_ARGS parse, query_string, cursorOptions, boundParams
#endif

/* 19 lets support functions take part in inlining. */
static inline Query *
sau_compat_inline_function(PlannerInfo *root, RangeTblEntry *rte)
{
#if PG_VERSION_NUM >= 190000
	return inline_function_in_from(root, rte);
#else
	return inline_set_returning_function(root, rte);
#endif
}

/* What the columns of a range-table entry stand for: a join's, and from 18 on those grouped by. */
static inline List *
sau_compat_alias_exprs(RangeTblEntry *rte)
{
	if (rte->rtekind == RTE_JOIN)
		return rte->joinaliasvars;
#if PG_VERSION_NUM >= 180000
	if (rte->rtekind == RTE_GROUP)
		return rte->groupexprs;
#endif
	return NIL;
}

/* 17 keeps MERGE's ON apart. */
static inline Node *
sau_compat_merge_condition(Query *query)
{
#if PG_VERSION_NUM >= 170000
	return query->mergeJoinCondition;
#else
	return NULL;
#endif
}

/*
 * What RETURNING of a DELETE says of its target is the row as it was.  18 can return
 * the old row of an UPDATE: then the result is what the Var becomes.  Before, NULL.
 */
static inline Node *
sau_compat_returning_old(Var *var)
{
#if PG_VERSION_NUM >= 180000
	if (var->varreturningtype == VAR_RETURNING_NEW)
		return (Node *) makeNullConst(var->vartype, var->vartypmod, var->varcollid);
	var = copyObject(var);
	var->varreturningtype = VAR_RETURNING_OLD;
	return (Node *) var;
#else
	return NULL;
#endif
}

/* What RETURNING NEW gives where there is no new row: of an expression beneath a view. */
static inline Node *
sau_compat_returning_no_new(Node *node, int level)
{
#if PG_VERSION_NUM >= 180000
	if (IsA(node, ReturningExpr) && ((ReturningExpr *) node)->retlevelsup == level && !((ReturningExpr *) node)->retold)
		return (Node *) makeNullConst(exprType(node), exprTypmod(node), exprCollation(node));
#endif
	return NULL;
}

/* 16 moved privileges out of the range table. */
static inline void
sau_compat_add_updated_col(Query *query, RangeTblEntry *rte, AttrNumber attno)
{
#if PG_VERSION_NUM >= 160000
	RTEPermissionInfo *perminfo = getRTEPermissionInfo(query->rteperminfos, rte);

	perminfo->updatedCols = bms_add_member(perminfo->updatedCols, attno - FirstLowInvalidHeapAttributeNumber);
#else
	rte->updatedCols = bms_add_member(rte->updatedCols, attno - FirstLowInvalidHeapAttributeNumber);
#endif
}

static inline void
sau_compat_ask_select(Query *query, RangeTblEntry *rte)
{
#if PG_VERSION_NUM >= 160000
	addRTEPermissionInfo(&query->rteperminfos, rte)->requiredPerms = ACL_SELECT;
#else
	rte->requiredPerms = ACL_SELECT;
#endif
}

static inline void
sau_compat_add_selected_col(Query *query, RangeTblEntry *rte, AttrNumber attno)
{
#if PG_VERSION_NUM >= 160000
	RTEPermissionInfo *perminfo = getRTEPermissionInfo(query->rteperminfos, rte);

	perminfo->selectedCols = bms_add_member(perminfo->selectedCols, attno - FirstLowInvalidHeapAttributeNumber);
#else
	rte->selectedCols = bms_add_member(rte->selectedCols, attno - FirstLowInvalidHeapAttributeNumber);
#endif
}

/* 19 lets COPY ... TO read a partitioned table. */
#define SAU_COMPAT_COPIES_PARTITIONED (PG_VERSION_NUM >= 190000)

/* 19 has INSERT ... ON CONFLICT DO SELECT. */
static inline bool
sau_compat_is_conflict_select(const OnConflictExpr *conflict)
{
#if PG_VERSION_NUM >= 190000
	return conflict->action == ONCONFLICT_SELECT;
#else
	return false;
#endif
}

/* 18 took a parameter of ExecutorRun() away. */
#if PG_VERSION_NUM >= 180000
#define SAU_RUN_PARAMS QueryDesc *queryDesc, ScanDirection direction, uint64 count
#define SAU_RUN_ARGS queryDesc, direction, count
#else
#define SAU_RUN_PARAMS QueryDesc *queryDesc, ScanDirection direction, uint64 count, bool execute_once
#define SAU_RUN_ARGS queryDesc, direction, count, execute_once
#endif

/* 18 took a parameter of PortalRun() away. */
static inline bool
sau_compat_portal_run(Portal portal, DestReceiver *receiver)
{
	QueryCompletion qc;

#if PG_VERSION_NUM >= 180000
	return PortalRun(portal, FETCH_ALL, true, receiver, receiver, &qc);
#else
	return PortalRun(portal, FETCH_ALL, true, true, receiver, receiver, &qc);
#endif
}

/*
 * Have '...' taken as the standard says, and tell how it was taken before.  19 knows no
 * other way.
 */
#if PG_VERSION_NUM < 190000
#include "parser/parser.h"
#endif
static inline bool
sau_compat_standard_strings(bool standard)
{
#if PG_VERSION_NUM < 190000
	bool		before = standard_conforming_strings;

	standard_conforming_strings = standard;
	return before;
#else
	return standard;
#endif
}

#endif							/* SOFTAUDIT_COMPAT_H */
