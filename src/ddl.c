/*
 * ddl.c
 *		Event triggers: follow DDL on audited tables, refuse it on the log.
 *
 * They work in sessions that never loaded the library, too, since firing one loads it.
 *
 * What a command is about is told from its parse tree first, so that DDL which does
 * not concern us costs nothing; only then is SQL of ours run to act on it.
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parse_func.h"
#include "softaudit.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

static EventTriggerData *
event_data(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("the function was not called by the event trigger manager")));
	return (EventTriggerData *) fcinfo->context;
}

/* Nothing was ever enabled in this database, or the command is our own. */
static bool
is_idle(void)
{
	return sau_objects_is_internal() ||
		!OidIsValid(sau_objects_schema(true)) ||
		!OidIsValid(sau_objects_relid("registry", true));
}

static void
run(const char *sql)
{
	sau_owner_run(sql, 0, NULL, NULL, NULL);
}

/* Is the relation, as a command names it, one of ours? */
static bool
is_ours(RangeVar *rv)
{
	Oid			relid;

	if (rv == NULL)
		return false;
	relid = RangeVarGetRelid(rv, NoLock, true);
	return OidIsValid(relid) && get_rel_namespace(relid) == sau_objects_schema(true);
}

static void
refuse(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s is refused on the audit log", what),
			 errhint("The log is changed by softaudit's functions only. To give it up for good, DROP EXTENSION softaudit CASCADE first.")));
}

/*
 * Are the log's guards up?  In a restore they come last, after the log's parts and rows.
 * A table of somebody else's making that became a part of it would bring its rows along,
 * or take some that no guard sees.
 */
static bool
is_guarded(void)
{
	Oid			relid = sau_objects_relid("log", true);
	Relation	relation = OidIsValid(relid) ? try_relation_open(relid, AccessShareLock) : NULL;
	bool		guarded = false;

	if (relation == NULL)
		return false;
	for (int i = 0; relation->trigdesc != NULL && i < relation->trigdesc->numtriggers; i++)
		if (strcmp(relation->trigdesc->triggers[i].tgname, "softaudit_guard") == 0)
			guarded = true;
	relation_close(relation, AccessShareLock);
	return guarded;
}

/* A child of a table of ours would show its own rows as the log's. */
static void
check_inherits(List *parents, bool is_partition)
{
	ListCell   *lc;

	foreach(lc, parents)
		if (is_ours(lfirst_node(RangeVar, lc)) && (!is_partition || is_guarded()))
			refuse(is_partition ? "CREATE TABLE ... PARTITION OF" : "inheritance");
}

/*
 * Subcommands of ALTER TABLE that would lose what the log holds, or its guards.  What
 * a restore of a dump says, and what a DBA tunes, is not among them.
 */
static void
check_alter_log(AlterTableStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		switch (lfirst_node(AlterTableCmd, lc)->subtype)
		{
			case AT_AddColumn:
			case AT_DropColumn:
			case AT_AlterColumnType:
			case AT_DropConstraint:
			case AT_DetachPartition:
			case AT_AddInherit:
			case AT_DropInherit:
			case AT_SetUnLogged:
			case AT_DisableTrig:
			case AT_DisableTrigAll:
			case AT_DisableTrigUser:
			case AT_EnableTrig:
			case AT_EnableTrigAll:
			case AT_EnableTrigUser:
			case AT_EnableReplicaTrig:
			case AT_EnableRule:
			case AT_ForceRowSecurity:
			case AT_EnableRowSecurity:
				refuse("this form of ALTER TABLE");
				break;
			case AT_AttachPartition:
				/* indexes are attached late in a restore, beside the guards */
				if (stmt->objtype != OBJECT_INDEX && is_guarded())
					refuse("ATTACH PARTITION");
				break;
			default:
				break;
		}
	}
}

/* Run a function of ours on a relation, with a text, as a column's name, where it wants one. */
static void
run_on(const char *sql, Oid relid, const char *more)
{
	Oid			types[2] = {OIDOID, TEXTOID};
	Datum		values[2] = {ObjectIdGetDatum(relid), more ? CStringGetTextDatum(more) : (Datum) 0};

	sau_owner_run(sql, more ? 2 : 1, types, values, "  ");
}

/* The relation that a command names; none unless it is there and the user's. */
static Oid
owned_relation(RangeVar *rv)
{
	Oid			relid = rv ? RangeVarGetRelid(rv, NoLock, true) : InvalidOid;

	return OidIsValid(relid) && sau_compat_owns_relation(relid, GetUserId()) ? relid : InvalidOid;
}

/* Record the drop of a partition while it can still be told whose it is. */
static void
note_partition_drop(RangeVar *rv)
{
	Oid			relid = RangeVarGetRelid(rv, NoLock, true);

	/* whom PostgreSQL lets drop it */
	if (OidIsValid(relid) && get_rel_relispartition(relid) &&
		(sau_compat_owns_relation(relid, GetUserId()) || sau_compat_owns_schema(get_rel_namespace(relid), GetUserId())))
		run_on("SELECT softaudit.before_drop_partition($1::pg_catalog.regclass)", relid, NULL);
}

/*
 * Before an owner renames or drops a column of his restored table, or drops its key: have
 * its trigger and the registry know the columns, so that the change can be followed.  A
 * restore itself does none of it, and must find the triggers as it makes them.
 */
static void
adopt(RangeVar *rv)
{
	Oid			relid = owned_relation(rv);

	if (OidIsValid(relid) && get_rel_relkind(relid) != RELKIND_INDEX)
		run_on("SELECT softaudit.adopt_tree($1::pg_catalog.regclass)", relid, NULL);
}

/*
 * PostgreSQL neither drops a column that a trigger is for nor changes its type.  Ours on
 * the columns of foreign keys is made again, where it is needed, when the command has ended.
 */
static void
free_column(RangeVar *rv, const char *column)
{
	Oid			relid = owned_relation(rv);

	if (OidIsValid(relid))
		run_on("SELECT softaudit.free_column($1::pg_catalog.regclass, $2)", relid, column);
}

/* A table that becomes a partition gets the triggers of the whole, and has none of its own any more. */
static void
free_part(RangeVar *part, RangeVar *whole)
{
	Oid			relid = owned_relation(part);
	Oid			whole_id = owned_relation(whole);

	if (OidIsValid(relid) && OidIsValid(whole_id))
		run_on("SELECT softaudit.before_attach($1::pg_catalog.regclass, $2::pg_catalog.oid)", relid, psprintf("%u", whole_id));
}

/* An index that stands for a unique constraint is found by its name when disable() makes that again. */
static void
note_index_rename(RenameStmt *stmt)
{
	Oid			relid = owned_relation(stmt->relation);

	if (OidIsValid(relid) && stmt->renameType == OBJECT_TABCONSTRAINT)
	{
		Oid			constraint = get_relation_constraint_oid(relid, stmt->subname, true);

		relid = OidIsValid(constraint) ? get_constraint_index(constraint) : InvalidOid;
	}
	else if (stmt->renameType != OBJECT_INDEX && stmt->renameType != OBJECT_TABLE)
		return;
	if (OidIsValid(relid) && (get_rel_relkind(relid) == RELKIND_INDEX || get_rel_relkind(relid) == RELKIND_PARTITIONED_INDEX))
		run_on("SELECT softaudit.before_index_rename($1, $2)", relid, stmt->newname);
}

/* What was a partition has the foreign keys still, and not the whole's triggers. */
static void
keep_part(RangeVar *part, RangeVar *whole)
{
	Oid			relid = RangeVarGetRelid(part, NoLock, true);
	Oid			whole_id = RangeVarGetRelid(whole, NoLock, true);

	if (OidIsValid(relid) && OidIsValid(whole_id))
		run_on("SELECT softaudit.after_detach($1::pg_catalog.regclass, $2::pg_catalog.oid)", relid, psprintf("%u", whole_id));
}

/*
 * A trigger of ours is what the library trusts: only we make one, and a restore, where
 * there is none yet on a table of who runs it.  PostgreSQL asks for the TRIGGER privilege
 * only, which says less.
 */
static void
check_create_trigger(CreateTrigStmt *stmt)
{
	Oid			relid = RangeVarGetRelid(stmt->relation, NoLock, true);
	Oid			funcid = LookupFuncName(stmt->funcname, 0, NULL, true);
	bool		has_our_name = strncmp(stmt->trigname, SAU_TRIGGER_PREFIX, strlen(SAU_TRIGGER_PREFIX)) == 0;

	if (!OidIsValid(relid) ||
		(!has_our_name && (!OidIsValid(funcid) || get_func_namespace(funcid) != sau_objects_schema(true))))
		return;
	/* the guards of the log itself, in a restore */
	if (get_rel_namespace(relid) == sau_objects_schema(true) && superuser())
		return;
	if (!has_our_name || stmt->replace || !OidIsValid(funcid) || get_func_namespace(funcid) != sau_objects_schema(true) ||
		!sau_compat_owns_relation(relid, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("trigger \"%s\" is refused: triggers of softaudit are made by softaudit.enable()", stmt->trigname),
				 errhint("Have the table's owner call it.")));
	/* a foreign key that was restored first had these made already */
	if (strcmp(get_func_name(funcid), "capture") != 0)
		stmt->replace = true;
}

PG_FUNCTION_INFO_V1(softaudit_ddl_start);

/* ddl_command_start: refuse what would change or unguard the log. */
Datum
softaudit_ddl_start(PG_FUNCTION_ARGS)
{
	EventTriggerData *data = event_data(fcinfo);
	Node	   *tree = data->parsetree;

	/* this call may be what loaded the library, amid the statement */
	if (IsA(tree, CreateTableAsStmt))
		sau_collected_query = ((CreateTableAsStmt *) tree)->query;
	if (is_idle())
		return (Datum) 0;
	switch (nodeTag(tree))
	{
		case T_AlterTableStmt:
			if (is_ours(((AlterTableStmt *) tree)->relation))
				check_alter_log((AlterTableStmt *) tree);
			else
			{
				ListCell   *lc;

				foreach(lc, ((AlterTableStmt *) tree)->cmds)
				{
					AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

					if (cmd->subtype == AT_AddInherit)
						check_inherits(list_make1(cmd->def), false);
				}
				foreach(lc, ((AlterTableStmt *) tree)->cmds)
				{
					AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

					if (cmd->subtype == AT_AlterColumnType || cmd->subtype == AT_DropColumn)
						free_column(((AlterTableStmt *) tree)->relation, cmd->name);
					if (cmd->subtype == AT_AttachPartition && ((AlterTableStmt *) tree)->objtype == OBJECT_TABLE)
						free_part(((PartitionCmd *) cmd->def)->name, ((AlterTableStmt *) tree)->relation);
				}
				foreach(lc, ((AlterTableStmt *) tree)->cmds)
					if (lfirst_node(AlterTableCmd, lc)->subtype == AT_DropColumn ||
						lfirst_node(AlterTableCmd, lc)->subtype == AT_DropConstraint)
					{
						adopt(((AlterTableStmt *) tree)->relation);
						break;
					}
			}
			break;
		case T_CreateStmt:
		case T_CreateForeignTableStmt:
			/* the one begins with the other */
			check_inherits(((CreateStmt *) tree)->inhRelations, ((CreateStmt *) tree)->partbound != NULL);
			break;
		case T_AlterSeqStmt:
			if (is_ours(((AlterSeqStmt *) tree)->sequence))
				refuse("ALTER SEQUENCE");
			break;
		case T_RenameStmt:
			{
				RenameStmt *stmt = (RenameStmt *) tree;

				note_index_rename(stmt);
				if (stmt->renameType == OBJECT_SCHEMA && strcmp(stmt->subname, SAU_SCHEMA) == 0)
					refuse("ALTER SCHEMA ... RENAME");
				if (is_ours(stmt->relation))
					refuse("RENAME");
				if (stmt->renameType == OBJECT_TRIGGER &&
					strncmp(stmt->subname, SAU_TRIGGER_PREFIX, strlen(SAU_TRIGGER_PREFIX)) == 0)
					ereport(ERROR,
							(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
							 errmsg("trigger \"%s\" cannot be renamed", stmt->subname),
							 errhint("softaudit.disable() takes it off.")));
				if (stmt->renameType == OBJECT_COLUMN || stmt->renameType == OBJECT_ATTRIBUTE)
					adopt(stmt->relation);
			}
			break;
		case T_AlterObjectSchemaStmt:
			if (is_ours(((AlterObjectSchemaStmt *) tree)->relation))
				refuse("SET SCHEMA");
			break;
		case T_CreateTrigStmt:
			check_create_trigger((CreateTrigStmt *) tree);
			break;
		case T_RuleStmt:
			if (is_ours(((RuleStmt *) tree)->relation))
				refuse("CREATE RULE");
			break;
		case T_DropStmt:
			{
				DropStmt   *stmt = (DropStmt *) tree;
				ListCell   *lc;

				if (stmt->removeType == OBJECT_TABLE || stmt->removeType == OBJECT_VIEW ||
					stmt->removeType == OBJECT_SEQUENCE)
				{
					foreach(lc, stmt->objects)
					{
						RangeVar   *rv = makeRangeVarFromNameList((List *) lfirst(lc));

						if (is_ours(rv))
							refuse("DROP");
						if (stmt->removeType == OBJECT_TABLE)
							note_partition_drop(rv);
					}
				}
				else if (stmt->removeType == OBJECT_SCHEMA)
				{
					foreach(lc, stmt->objects)
						if (strcmp(strVal(lfirst(lc)), SAU_SCHEMA) == 0)
							refuse("DROP SCHEMA");
				}
				else if (stmt->removeType == OBJECT_EXTENSION)
				{
					foreach(lc, stmt->objects)
						if (strcmp(strVal(lfirst(lc)), SAU_SCHEMA) == 0 && superuser())
							run(stmt->behavior == DROP_RESTRICT ? "SELECT softaudit.before_drop(false)" :
								"SELECT softaudit.before_drop(true)");
				}
			}
			break;
		default:
			break;
	}
	return (Datum) 0;
}

/*
 * Does a subcommand of ALTER TABLE give a column other values than a cast of its own?  A
 * key would then be that of another row.
 */
static bool
computes_column(AlterTableCmd *cmd)
{
	Node	   *value;

	if (sau_compat_sets_expression(cmd->subtype))
		return true;
	if (cmd->subtype != AT_AlterColumnType || (value = ((ColumnDef *) cmd->def)->raw_default) == NULL)
		return false;
	while (IsA(value, TypeCast))
		value = ((TypeCast *) value)->arg;
	return !IsA(value, ColumnRef) || !IsA(llast(((ColumnRef *) value)->fields), String) ||
		strcmp(strVal(llast(((ColumnRef *) value)->fields)), cmd->name) != 0;
}

/* The values of a key were computed anew: what the log has of the ones before is not theirs. */
static void
note_computed(RangeVar *rv, const char *column)
{
	Oid			relid = RangeVarGetRelid(rv, NoLock, true);

	if (OidIsValid(relid))
		run_on("SELECT softaudit.key_computed($1::pg_catalog.regclass, $2)", relid, column);
}

static bool
is_foreign_key(Node *node)
{
	return IsA(node, Constraint) && ((Constraint *) node)->contype == CONSTR_FOREIGN;
}

/* Does CREATE TABLE declare a foreign key? */
static bool
has_foreign_key(CreateStmt *stmt)
{
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, stmt->constraints)
		if (is_foreign_key(lfirst(lc)))
			return true;
	foreach(lc, stmt->tableElts)
	{
		if (is_foreign_key(lfirst(lc)))
			return true;
		if (IsA(lfirst(lc), ColumnDef))
			foreach(lc2, ((ColumnDef *) lfirst(lc))->constraints)
				if (is_foreign_key(lfirst(lc2)))
					return true;
	}
	return false;
}

PG_FUNCTION_INFO_V1(softaudit_ddl_end);

/* ddl_command_end: follow renames, new partitions, ATTACH and DETACH. */
Datum
softaudit_ddl_end(PG_FUNCTION_ARGS)
{
	EventTriggerData *data = event_data(fcinfo);
	Node	   *tree = data->parsetree;
	bool		concerns = false;
	bool		partitions = false;
	ListCell   *lc;

	if (is_idle())
		return (Datum) 0;
	switch (nodeTag(tree))
	{
		case T_AlterTableStmt:
			concerns = true;
			foreach(lc, ((AlterTableStmt *) tree)->cmds)
				if (lfirst_node(AlterTableCmd, lc)->subtype == AT_AttachPartition)
					partitions = true;
			break;
		case T_AlterObjectSchemaStmt:
			concerns = true;
			break;
		case T_RenameStmt:
			concerns = ((RenameStmt *) tree)->relation != NULL ||
				((RenameStmt *) tree)->renameType == OBJECT_SCHEMA;
			break;
		case T_CreateStmt:
		case T_CreateForeignTableStmt:
			partitions = ((CreateStmt *) tree)->partbound != NULL;
			concerns = partitions || ((CreateStmt *) tree)->inhRelations != NIL || has_foreign_key((CreateStmt *) tree);
			break;
		case T_CreateSchemaStmt:
			/* ddl_command_start does not come for what it makes */
			run("SELECT softaudit.check_children()");
			concerns = partitions = true;
			break;
		case T_CreateTrigStmt:
			/* a restore may make a marker after the foreign keys that it matters for */
			if (strcmp(((CreateTrigStmt *) tree)->trigname, SAU_TRIGGER_PREFIX "marker") == 0)
				run("SELECT softaudit.after_marker()");
			else if (((CreateTrigStmt *) tree)->row && TRIGGER_FOR_BEFORE(((CreateTrigStmt *) tree)->timing) &&
					 TRIGGER_FOR_UPDATE(((CreateTrigStmt *) tree)->events))
				run("SELECT softaudit.after_trigger()");
			break;
		default:
			break;
	}
	if (concerns)
		run(partitions ? "SELECT softaudit.after_ddl(true)" : "SELECT softaudit.after_ddl(false)");
	if (IsA(tree, AlterTableStmt) && ((AlterTableStmt *) tree)->objtype == OBJECT_TABLE)
		foreach(lc, ((AlterTableStmt *) tree)->cmds)
		{
			AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

			if (cmd->subtype == AT_DetachPartition || cmd->subtype == AT_DetachPartitionFinalize)
				keep_part(((PartitionCmd *) cmd->def)->name, ((AlterTableStmt *) tree)->relation);
			if (computes_column(cmd))
				note_computed(((AlterTableStmt *) tree)->relation, cmd->name);
		}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(softaudit_sql_drop);

/* sql_drop: keep the names of dropped tables, refuse to lose the log. */
Datum
softaudit_sql_drop(PG_FUNCTION_ARGS)
{
	event_data(fcinfo);
	/* first of all: the registry itself may be what was dropped */
	if (!sau_objects_is_internal() && OidIsValid(sau_objects_schema(true)))
		run("SELECT softaudit.check_drop()");
	if (!is_idle())
		run("SELECT softaudit.after_drop()");
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(softaudit_table_rewrite);

/* table_rewrite: rows of an audited table change without a row trigger; say so. */
Datum
softaudit_table_rewrite(PG_FUNCTION_ARGS)
{
	event_data(fcinfo);
	if (!is_idle())
		run("SELECT softaudit.before_rewrite()");
	return (Datum) 0;
}
