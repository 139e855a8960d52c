/*
 * conflict.c
 *		A hint for who writes a row whose key a deleted row has.
 *
 * Step of the path: a statement is run; a unique index that counts deleted rows refuses a
 * row.  PostgreSQL's error names the key, and the row that has it is not to be seen.
 *
 * An error context callback adds the hint, so that a statement that succeeds pays for
 * nothing, and handlers in PL/pgSQL see it, too.  It speaks of errors of _bt_check_unique()
 * alone, which has given up its buffers when it raises them, since it reads catalogs itself
 * to describe the key.  There the row in the way is looked up once more, through the index
 * that the statement has open.  Where that cannot be done without running somebody's code
 * (expressions), or the new row is not at hand (COPY, constraints that are checked later),
 * or the error does not show the key either, the hint says "if".
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/skey.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_index.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "softaudit.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

typedef enum InTheWay
{
	NO_DELETED_ROW,
	A_DELETED_ROW,
	PERHAPS_A_DELETED_ROW
} InTheWay;

/* Does an index of a soft-deleted table count deleted rows, as far as its name can tell? */
static InTheWay
by_name(const ErrorData *error)
{
	Oid			nsp = get_namespace_oid(error->schema_name, true);
	Oid			relid = OidIsValid(nsp) ? get_relname_relid(error->table_name, nsp) : InvalidOid;
	HeapTuple	tuple;
	InTheWay	result = NO_DELETED_ROW;

	if (!OidIsValid(relid) || sau_marker_get(relid) == NULL)
		return NO_DELETED_ROW;
	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(get_relname_relid(error->constraint_name, nsp)));
	if (!HeapTupleIsValid(tuple))
		return NO_DELETED_ROW;
	if (heap_attisnull(tuple, Anum_pg_index_indpred, NULL))
		result = PERHAPS_A_DELETED_ROW;
	ReleaseSysCache(tuple);
	return result;
}

/* Whether the row that an index has under the key of a new one is deleted. */
static InTheWay
look_up(ResultRelInfo *target, int which, TupleTableSlot *slot, AttrNumber marker_attno)
{
	Relation	heap = target->ri_RelationDesc;
	Relation	index = target->ri_IndexRelationDescs[which];
	IndexInfo  *info = target->ri_IndexRelationInfo[which];
	int			nkeys = info->ii_NumIndexKeyAttrs;
	ScanKeyData keys[INDEX_MAX_KEYS];
	SnapshotData dirty;
	IndexScanDesc scan;
	TupleTableSlot *found;
	InTheWay	result = NO_DELETED_ROW;

	for (int i = 0; i < nkeys; i++)
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, info->ii_IndexAttrNumbers[i], &isnull);
		Oid			type = index->rd_opcintype[i];
		Oid			equal = get_opfamily_member(index->rd_opfamily[i], type, type, BTEqualStrategyNumber);

		if (isnull)
			ScanKeyEntryInitialize(&keys[i], SK_ISNULL | SK_SEARCHNULL, i + 1, InvalidStrategy,
								   InvalidOid, InvalidOid, InvalidOid, (Datum) 0);
		else if (!OidIsValid(equal))
			return PERHAPS_A_DELETED_ROW;
		else
			ScanKeyEntryInitialize(&keys[i], 0, i + 1, BTEqualStrategyNumber, type,
								   index->rd_indcollation[i], get_opcode(equal), value);
	}
	/* as _bt_check_unique() saw it: rows of this very statement count */
	InitDirtySnapshot(dirty);
	found = table_slot_create(heap, NULL);
	scan = sau_compat_index_beginscan(heap, index, &dirty, nkeys);
	index_rescan(scan, keys, nkeys, NULL, 0);
	while (result == NO_DELETED_ROW && index_getnext_slot(scan, ForwardScanDirection, found))
		if (!slot_attisnull(found, marker_attno))
			result = A_DELETED_ROW;
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(found);
	return result;
}

/* What stands in the way of a row, by the state of the statement that writes it. */
static InTheWay
in_the_way(EState *estate, const ErrorData *error)
{
	TupleTableSlot *slot = NULL;
	List	   *lists[2];

	/* where ExecInsertIndexTuples() leaves the row whose index entries it makes */
	if (estate && estate->es_per_tuple_exprcontext && error->detail)
		slot = estate->es_per_tuple_exprcontext->ecxt_scantuple;
	if (slot == NULL || TTS_EMPTY(slot))
		return by_name(error);
	lists[0] = estate->es_opened_result_relations;
	lists[1] = estate->es_tuple_routing_result_relations;
	for (int l = 0; l < 2; l++)
	{
		ListCell   *lc;

		foreach(lc, lists[l])
		{
			ResultRelInfo *target = lfirst(lc);
			const SauMarker *marker;

			if (target->ri_RelationDesc == NULL || RelationGetRelid(target->ri_RelationDesc) != slot->tts_tableOid ||
				strcmp(RelationGetRelationName(target->ri_RelationDesc), error->table_name) != 0)
				continue;
			for (int i = 0; i < target->ri_NumIndices; i++)
			{
				Relation	index = target->ri_IndexRelationDescs[i];

				if (index == NULL || strcmp(RelationGetRelationName(index), error->constraint_name) != 0)
					continue;
				marker = sau_marker_get(slot->tts_tableOid);
				if (marker == NULL)
					return NO_DELETED_ROW;
				if (!index->rd_index->indimmediate || target->ri_IndexRelationInfo[i]->ii_Expressions != NIL)
					return by_name(error);
				return look_up(target, i, slot, marker->attno);
			}
		}
	}
	return by_name(error);
}

static void
conflict_callback(void *arg)
{
	SauConflict *statement = arg;
	ErrorContextCallback *innermost = error_context_stack;
	MemoryContext work;
	MemoryContext save;
	ErrorData  *error;
	InTheWay	found = NO_DELETED_ROW;

	if (geterrcode() != ERRCODE_UNIQUE_VIOLATION || !IsTransactionState())
		return;
	/* an error is that of the innermost statement */
	while (innermost && innermost->callback != conflict_callback)
		innermost = innermost->previous;
	if (innermost != &statement->callback)
		return;

	/* an interrupt in here would take the error's place */
	HOLD_INTERRUPTS();
	work = AllocSetContextCreate(CurTransactionContext, "softaudit conflict", ALLOCSET_SMALL_SIZES);
	save = MemoryContextSwitchTo(work);
	error = CopyErrorData();
	if (error->elevel == ERROR && error->hint == NULL && error->schema_name && error->table_name && error->constraint_name &&
		error->funcname && strcmp(error->funcname, "_bt_check_unique") == 0)
		found = in_the_way(statement->estate, error);
	MemoryContextSwitchTo(save);
	MemoryContextDelete(work);
	RESUME_INTERRUPTS();

	if (found == A_DELETED_ROW)
		errhint("The row that has this key is soft-deleted. Bring it back with softaudit.restore(), or remove it with softaudit.purge().");
	else if (found == PERHAPS_A_DELETED_ROW)
		errhint("If the row that has this key is soft-deleted, bring it back with softaudit.restore(), or remove it with softaudit.purge().");
}

/* A statement that may write is run; its state is NULL where it is not at hand. */
void
sau_conflict_begin(SauConflict *statement, EState *estate)
{
	statement->estate = estate;
	statement->callback.callback = conflict_callback;
	statement->callback.arg = statement;
	statement->callback.previous = error_context_stack;
	error_context_stack = &statement->callback;
}

/* It is done; an error has taken the callback off by itself. */
void
sau_conflict_end(SauConflict *statement)
{
	error_context_stack = statement->callback.previous;
}
