/*
 * shown.c
 *		with_deleted() and only_deleted(): the table with its deleted rows, as a FROM item.
 *
 * Step of the path: filter.c meets the call in FROM and puts in its place what this file makes.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "softaudit.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

typedef struct ColumnsContext
{
	Query	   *query;
	int			rti;
	int			sublevels_up;
	TupleDesc	desc;
	Bitmapset  *attnos;			/* by attno, zero for the whole row */
} ColumnsContext;

/* The statement was analyzed when the column was another: as FunctionScan says it. */
static void
refuse_column(ColumnsContext *context, Var *var)
{
	TupleDesc	desc = context->desc;
	bool		is_dropped = var->varattno > desc->natts || TupleDescAttr(desc, var->varattno - 1)->attisdropped;
	char	   *has = is_dropped ? NULL : format_type_be(TupleDescAttr(desc, var->varattno - 1)->atttypid);

	sau_marker_forget_shown();
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("table row type and query-specified row type do not match"),
			 is_dropped ? errdetail("The query reads column %d, which was dropped.", var->varattno)
			 : errdetail("Column %d has type %s, and the query expects %s or another collation.", var->varattno, has, format_type_be(var->vartype)),
			 errhint("Run the statement again. If a view has the reference, make it again.")));
}

static bool
columns_walker(Node *node, ColumnsContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;
		RangeTblEntry *rte;

		if (var->varlevelsup != context->sublevels_up || var->varattno < 0)
			return false;
		if (var->varno == context->rti)
		{
			if (var->varattno > 0)
			{
				Form_pg_attribute att = var->varattno <= context->desc->natts ? TupleDescAttr(context->desc, var->varattno - 1) : NULL;

				if (att == NULL || att->attisdropped || att->atttypid != var->vartype || att->attcollation != var->varcollid)
					refuse_column(context, var);
			}
			context->attnos = bms_add_member(context->attnos, var->varattno);
			return false;
		}

		/* a join's column is one of its sides', or both of USING */
		rte = rt_fetch(var->varno, context->query->rtable);
		if (rte->rtekind == RTE_JOIN)
		{
			ColumnsContext below = *context;

			below.sublevels_up = 0;
			if (var->varattno > 0)
				columns_walker(list_nth(rte->joinaliasvars, var->varattno - 1), &below);
			else
				expression_tree_walker((Node *) rte->joinaliasvars, columns_walker, &below);
			context->attnos = below.attnos;
		}
		return false;
	}
	if (IsA(node, Query))
	{
		bool		result;

		context->sublevels_up++;
		result = query_tree_walker((Query *) node, columns_walker, context, QTW_IGNORE_JOINALIASES);
		context->sublevels_up--;
		return result;
	}
	return expression_tree_walker(node, columns_walker, context);
}

/*
 * Make softaudit.with_deleted(NULL::t) and only_deleted(NULL::t) a subquery on the
 * table, which the planner pulls up: indexes and conditions reach it, and the caller's
 * privileges and row-level security hold.  Returns that subquery.
 */
Query *
sau_shown_expand(Query *query, int rti, RangeTblEntry *rte, FuncExpr *call)
{
	Oid			relid = get_typ_typrelid(getBaseType(exprType(linitial(call->args))));
	ColumnsContext columns = {query, rti, 0, NULL, NULL};
	Relation	relation;
	TupleDesc	desc;
	Query	   *sub = makeNode(Query);
	RangeTblEntry *ref;
	RangeTblRef *rtr = makeNode(RangeTblRef);
	List	   *names = NIL;

	if (rte->funcordinality || list_length(rte->functions) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("softaudit.%s() cannot be used WITH ORDINALITY or in ROWS FROM", get_func_name(call->funcid)),
				 errhint("Use row_number() OVER (), or make it a FROM item of its own.")));
	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("the argument of softaudit.%s() is not of a table's row type", get_func_name(call->funcid)),
				 errhint("Write NULL::t, where t is the table.")));
	LockRelationOid(relid, AccessShareLock);
	if (sau_marker_get(relid) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" is not soft-deleted", get_rel_name(relid) ? get_rel_name(relid) : "?"),
				 errhint("Call softaudit.enable() for it.")));

	sau_marker_note_shown(relid, call->funcid, strcmp(get_func_name(call->funcid), "only_deleted") == 0);

	relation = table_open(relid, NoLock);
	desc = columns.desc = RelationGetDescr(relation);
	/* which columns it reads: SELECT on no others is asked for */
	query_tree_walker(query, columns_walker, &columns, QTW_IGNORE_JOINALIASES);

	ref = makeNode(RangeTblEntry);
	ref->rtekind = RTE_RELATION;
	ref->relid = relid;
	ref->relkind = relation->rd_rel->relkind;
	ref->rellockmode = AccessShareLock;
	ref->inh = true;
	ref->inFromCl = true;
	sub->rtable = list_make1(ref);
	sau_compat_ask_select(sub, ref);
	sub->commandType = CMD_SELECT;
	sub->querySource = QSRC_ORIGINAL;
	sub->canSetTag = true;
	sub->stmt_location = -1;
	rtr->rtindex = 1;
	sub->jointree = makeFromExpr(list_make1(rtr), NULL);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		wanted = bms_is_member(0, columns.attnos) || bms_is_member(i + 1, columns.attnos);
		Expr	   *expr;

		if (att->attisdropped)
			expr = (Expr *) makeNullConst(INT4OID, -1, InvalidOid);
		else if (!wanted)
			expr = (Expr *) makeNullConst(att->atttypid, att->atttypmod, att->attcollation);
		else
		{
			expr = (Expr *) makeVar(1, i + 1, att->atttypid, att->atttypmod, att->attcollation, 0);
			sau_compat_add_selected_col(sub, ref, i + 1);
		}
		names = lappend(names, makeString(pstrdup(att->attisdropped ? "" : NameStr(att->attname))));
		sub->targetList = lappend(sub->targetList, makeTargetEntry(expr, i + 1, pstrdup(NameStr(att->attname)), false));
	}
	ref->eref = makeAlias(RelationGetRelationName(relation), names);
	table_close(relation, NoLock);

	/* row-level security */
	sub = linitial_node(Query, QueryRewrite(sub));

	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = sub;
	rte->security_barrier = false;
	return sub;
}

PG_FUNCTION_INFO_V1(softaudit_show_deleted);

/*
 * softaudit.with_deleted(anyelement) and only_deleted(anyelement): the planner hook
 * makes a subquery of either in FROM, so the function itself is never called there.
 */
Datum
softaudit_show_deleted(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("softaudit.%s() was called outside of FROM, or before softaudit was loaded",
					get_func_name(fcinfo->flinfo->fn_oid)),
			 errhint("Write SELECT ... FROM softaudit.with_deleted(NULL::t). The library is loaded now: run the statement again.")));
}
