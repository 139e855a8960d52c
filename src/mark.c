/*
 * mark.c
 *		DELETE as a mark: what becomes of the statements that delete rows, or meet deleted ones.
 *
 * Step of the path: filter.c has given each reference its condition; a DELETE, a MERGE that
 * deletes or an INSERT ... ON CONFLICT on a marked relation is changed here.  All rows of a
 * statement get one stamp, and RETURNING shows them as they were.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "softaudit.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* The test of the marker of a reference. */
Node *
sau_mark_test(const SauMarker *marker, int rti, NullTestType type)
{
	NullTest   *test = makeNode(NullTest);

	test->arg = (Expr *) makeVar(rti, marker->attno, marker->typid, marker->typmod, InvalidOid, 0);
	test->nulltesttype = type;
	test->argisrow = false;
	test->location = -1;
	return (Node *) test;
}

/* What a target list assigns to a column, or NULL. */
Node *
sau_mark_assigned(List *targetlist, AttrNumber attno)
{
	ListCell   *lc;

	foreach(lc, targetlist)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);

		if (!tle->resjunk && tle->resno == attno)
			return (Node *) tle->expr;
	}
	return NULL;
}

/* ---- DELETE ---- */

/* By the schema's OID: whoever may DELETE need not have USAGE on it. */
static Oid
our_function(const char *name, int nargs, const Oid *types)
{
	Oid			funcid = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(name),
										 PointerGetDatum(buildoidvector(types, nargs)), ObjectIdGetDatum(sau_objects_schema(false)));

	if (!OidIsValid(funcid))
		elog(ERROR, "function %s.%s() does not exist", SAU_SCHEMA, name);
	return funcid;
}

/* A query of one column, the stamp, over what the FROM items are. */
static Query *
stamp_query(Expr *stamp, List *fromlist)
{
	Query	   *query = makeNode(Query);

	query->commandType = CMD_SELECT;
	query->querySource = QSRC_ORIGINAL;
	query->canSetTag = true;
	query->jointree = makeFromExpr(fromlist, NULL);
	query->targetList = list_make1(makeTargetEntry(stamp, 1, pstrdup("stamp"), false));
	query->stmt_location = -1;
	return query;
}

static Expr *
stamp_call(const SauMarker *marker)
{
	bool		is_utc = marker->typid == TIMESTAMPOID;

	return (Expr *) makeFuncExpr(our_function(is_utc ? "deletion_stamp_utc" : "deletion_stamp", 0, NULL),
								 is_utc ? TIMESTAMPOID : TIMESTAMPTZOID, NIL, InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
}

/* For several assignments in one statement: a WITH query that is evaluated once. */
static CommonTableExpr *
stamp_cte(Query *query, const SauMarker *marker, int nrefs)
{
	CommonTableExpr *cte = makeNode(CommonTableExpr);
	Expr	   *stamp = stamp_call(marker);

	cte->ctename = pstrdup("!softaudit_stamp");
	cte->ctematerialized = CTEMaterializeAlways;
	cte->ctequery = (Node *) stamp_query(stamp, NIL);
	cte->location = -1;
	cte->cterefcount = nrefs;
	cte->ctecolnames = list_make1(makeString(pstrdup("stamp")));
	cte->ctecoltypes = list_make1_oid(exprType((Node *) stamp));
	cte->ctecoltypmods = list_make1_int(-1);
	cte->ctecolcollations = list_make1_oid(InvalidOid);
	query->cteList = lappend(query->cteList, cte);
	return cte;
}

static Query *
stamp_from_cte(CommonTableExpr *cte)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblRef *rtr = makeNode(RangeTblRef);
	Query	   *query;

	rte->rtekind = RTE_CTE;
	rte->ctename = cte->ctename;
	rte->ctelevelsup = 1;
	rte->coltypes = cte->ctecoltypes;
	rte->coltypmods = cte->ctecoltypmods;
	rte->colcollations = cte->ctecolcollations;
	rte->eref = makeAlias(cte->ctename, copyObject(cte->ctecolnames));
	rte->inFromCl = true;
	rtr->rtindex = 1;
	query = stamp_query((Expr *) makeVar(1, 1, linitial_oid(cte->ctecoltypes), -1, InvalidOid, 0), list_make1(rtr));
	query->rtable = list_make1(rte);
	return query;
}

/*
 * The assignment of a stamp: a subquery without references, so that it is evaluated
 * once a statement and all its rows get the same.
 */
static TargetEntry *
stamp_entry(Query *query, const SauMarker *marker, CommonTableExpr *cte)
{
	Query	   *sub = cte ? stamp_from_cte(cte) : stamp_query(stamp_call(marker), NIL);
	SubLink    *sublink = makeNode(SubLink);

	sublink->subLinkType = EXPR_SUBLINK;
	sublink->subselect = (Node *) sub;
	sublink->location = -1;
	query->hasSubLinks = true;
	return makeTargetEntry((Expr *) sublink, marker->attno,
						   get_attname(marker->relid, marker->attno, false), false);
}

typedef struct ReturningContext
{
	int			rti;
	Oid			relid;
	AttrNumber	attno;
	int			sublevels_up;
} ReturningContext;

static Node *old_var(Var *var, ReturningContext *context);

/* A whole row, column by column. */
static Node *
old_row(Var *var, ReturningContext *context)
{
	Relation	relation = table_open(context->relid, NoLock);
	TupleDesc	desc = RelationGetDescr(relation);
	RowExpr    *row = makeNode(RowExpr);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		row->args = lappend(row->args, att->attisdropped ? (Node *) makeNullConst(INT4OID, -1, InvalidOid) :
							old_var(makeVar(var->varno, i + 1, att->atttypid, att->atttypmod, att->attcollation, var->varlevelsup), context));
	}
	table_close(relation, NoLock);
	row->row_typeid = var->vartype;
	row->row_format = COERCE_IMPLICIT_CAST;
	row->location = -1;
	return (Node *) row;
}

/* A reference to the target in RETURNING of a DELETE: all columns are unchanged, and the marker was NULL. */
static Node *
old_var(Var *var, ReturningContext *context)
{
	Node	   *old = sau_compat_returning_old(var);

	if (old)
		return old;
	if (var->varattno == InvalidAttrNumber)
		return old_row(var, context);
	if (var->varattno == context->attno)
		return (Node *) makeNullConst(var->vartype, var->vartypmod, var->varcollid);
	return (Node *) copyObject(var);
}

static Node *
returning_mutator(Node *node, ReturningContext *context)
{
	Node	   *nothing;

	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		if (var->varno == context->rti && var->varlevelsup == context->sublevels_up)
			return old_var(var, context);
	}
	nothing = sau_compat_returning_no_new(node, context->sublevels_up);
	if (nothing)
		return nothing;
	if (IsA(node, Query))
	{
		Query	   *result;

		context->sublevels_up++;
		result = query_tree_mutator((Query *) node, returning_mutator, context, 0);
		context->sublevels_up--;
		return (Node *) result;
	}
	return expression_tree_mutator(node, returning_mutator, context);
}

/* Tell the executor that the column is updated; the privilege asked for stays DELETE. */
static void
note_update(Query *query, RangeTblEntry *rte, const SauMarker *marker)
{
	sau_compat_add_updated_col(query, rte, marker->attno);
}

void
sau_mark_delete(Query *query, const SauMarker *marker)
{
	RangeTblEntry *rte = rt_fetch(query->resultRelation, query->rtable);
	ReturningContext context = {query->resultRelation, marker->relid, marker->attno, 0};

	query->commandType = CMD_UPDATE;
	query->targetList = list_make1(stamp_entry(query, marker, NULL));
	query->returningList = (List *) returning_mutator((Node *) query->returningList, &context);
	note_update(query, rte, marker);
}

void
sau_mark_merge(Query *query, const SauMarker *marker, bool is_filtered)
{
	CommonTableExpr *cte = NULL;
	int			ndeletes = 0;
	ListCell   *lc;

	foreach(lc, query->mergeActionList)
		ndeletes += lfirst_node(MergeAction, lc)->commandType == CMD_DELETE;
	if (ndeletes > 1)
		cte = stamp_cte(query, marker, ndeletes);
	foreach(lc, query->mergeActionList)
	{
		MergeAction *action = lfirst_node(MergeAction, lc);
		TargetEntry *tle;

		if (action->commandType != CMD_DELETE)
			continue;
		tle = stamp_entry(query, marker, cte);
		if (!is_filtered)
		{
			/* deleted rows may be among them: those keep their stamp */
			CoalesceExpr *coalesce = makeNode(CoalesceExpr);

			coalesce->coalescetype = marker->typid;
			coalesce->args = list_make2(makeVar(query->resultRelation, marker->attno, marker->typid, marker->typmod, InvalidOid, 0),
										tle->expr);
			coalesce->location = -1;
			tle->expr = (Expr *) coalesce;
		}
		action->commandType = CMD_UPDATE;
		action->targetList = list_make1(tle);
		note_update(query, rt_fetch(query->resultRelation, query->rtable), marker);
	}
}

/* An error where the row that ON CONFLICT found is a deleted one, ahead of what the statement asks of it. */
static void
refuse_deleted(OnConflictExpr *oc, const SauMarker *marker, Node *deleted)
{
	Oid			types[2] = {BOOLOID, OIDOID};
	Node	   *guard = (Node *) makeFuncExpr(our_function("refuse_deleted", 2, types), BOOLOID,
											  list_make2(deleted,
														 makeConst(OIDOID, -1, InvalidOid, sizeof(Oid),
																   ObjectIdGetDatum(marker->relid), false, true)),
											  InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);

	oc->onConflictWhere = oc->onConflictWhere ?
		(Node *) makeBoolExpr(AND_EXPR, list_make2(guard, oc->onConflictWhere), -1) : guard;
}

/*
 * INSERT ... ON CONFLICT: the live-unique index is found without its predicate being
 * spelled, and a deleted row that a full index finds is not updated behind the
 * curtain, unless the statement restores it.
 */
void
sau_mark_on_conflict(Query *query, const SauMarker *marker)
{
	OnConflictExpr *oc = query->onConflict;
	int			rti = query->resultRelation;

	if (oc->arbiterElems != NIL)
		oc->arbiterWhere = make_and_qual(oc->arbiterWhere, sau_mark_test(marker, rti, IS_NULL));
	if (oc->action == ONCONFLICT_UPDATE)
	{
		Node	   *value = sau_mark_assigned(oc->onConflictSet, marker->attno);
		Node	   *deleted = sau_mark_test(marker, rti, IS_NOT_NULL);

		if (value)
		{
			NullTest   *test = makeNode(NullTest);

			test->arg = (Expr *) copyObject(value);
			test->nulltesttype = IS_NOT_NULL;
			test->argisrow = false;
			test->location = -1;
			deleted = (Node *) makeBoolExpr(AND_EXPR, list_make2(deleted, test), -1);
		}
		refuse_deleted(oc, marker, deleted);
	}
}

/*
 * INSERT ... ON CONFLICT DO SELECT: what queries see is what it may return.  A deleted row
 * that none of them sees stands in the way all the same, which is an error.
 */
void
sau_mark_conflict_select(Query *query, const SauMarker *marker, SauShow show)
{
	OnConflictExpr *oc = query->onConflict;
	Node	   *deleted = sau_mark_test(marker, query->resultRelation, IS_NOT_NULL);

	if (show == SAU_SHOW_LIVE)
		refuse_deleted(oc, marker, deleted);
	else if (show == SAU_SHOW_DELETED)
		oc->onConflictWhere = make_and_qual(oc->onConflictWhere, deleted);
}

PG_FUNCTION_INFO_V1(softaudit_refuse_deleted);

/*
 * softaudit.refuse_deleted(is_deleted boolean, relation oid): true for a live row;
 * raises unique_violation for a deleted one, which INSERT ... ON CONFLICT must neither
 * change nor return.
 */
Datum
softaudit_refuse_deleted(PG_FUNCTION_ARGS)
{
	if (!PG_ARGISNULL(0) && PG_GETARG_BOOL(0))
	{
		Oid			relid = PG_GETARG_OID(1);
		char	   *name = get_rel_name(relid);

		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 name ? err_generic_string(PG_DIAG_SCHEMA_NAME, get_namespace_name(get_rel_namespace(relid))) : 0,
				 name ? err_generic_string(PG_DIAG_TABLE_NAME, name) : 0,
				 errmsg("a deleted row of table \"%s\" has this key", name ? name : "?"),
				 errdetail("ON CONFLICT found a row that is soft-deleted, in a unique index that counts deleted rows."),
				 errhint("Bring the row back with softaudit.restore(), or remove it with softaudit.purge().")));
	}
	PG_RETURN_BOOL(true);
}
