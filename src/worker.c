/*
 * worker.c
 *		The background worker: maintain() in chosen databases, every so often, as a chosen role.
 *
 * A launcher is registered where the library is in shared_preload_libraries.  It sleeps, and
 * at the end of a nap starts one worker after the other, a database each, and waits for
 * it: so there are never two for one database.  A worker that fails says why in the
 * server log and is gone; the launcher goes on.
 *
 * It acts as a role of the administrator's choice, who needs no more than EXECUTE on
 * softaudit.maintain(); without one it does nothing.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_proc.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/analyze.h"
#include "parser/parse_func.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "softaudit.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/varlena.h"

PGDLLEXPORT void softaudit_launcher_main(Datum arg);
PGDLLEXPORT void softaudit_worker_main(Datum arg);

static const char maintain_sql[] = "CALL softaudit.maintain()";

/* Register the launcher; called when the server loads the library as it starts. */
void
sau_worker_init(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	/* a standby's begins with its promotion */
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 10;
	strlcpy(worker.bgw_name, "softaudit launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "softaudit launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "softaudit", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "softaudit_launcher_main", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/* Maintain one database, by a worker of its own, and wait until that is done. */
static void
maintain_database(const char *database)
{
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker.bgw_name, BGW_MAXLEN, "softaudit worker for %s", database);
	strlcpy(worker.bgw_type, "softaudit worker", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "softaudit", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "softaudit_worker_main", BGW_MAXLEN);
	strlcpy(worker.bgw_extra, database, BGW_EXTRALEN);
	worker.bgw_notify_pid = MyProcPid;
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
	{
		ereport(WARNING,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("softaudit: no background worker is free to maintain database \"%s\"", database),
				 errhint("max_worker_processes may be too low. It is tried again after softaudit.worker_naptime.")));
		return;
	}
	(void) WaitForBackgroundWorkerShutdown(handle);
	pfree(handle);
}

/* A name of what is shared, by a scan of the catalog. */
static bool
is_there(Oid catalog, int attno, const char *name)
{
	Relation	rel = table_open(catalog, AccessShareLock);
	TableScanDesc scan = table_beginscan_catalog(rel, 0, NULL);
	HeapTuple	tuple;
	bool		found = false;

	while (!found && HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		bool		isnull;

		found = strcmp(NameStr(*DatumGetName(heap_getattr(tuple, attno, RelationGetDescr(rel), &isnull))), name) == 0;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * One round over the databases that are named.  The launcher is in no database, and as the server
 * starts it knows no index before a client has connected to one: so no syscache here.
 */
static void
maintain_all(void)
{
	static bool told = false;
	MemoryContext cxt = AllocSetContextCreate(TopMemoryContext, "softaudit launcher", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	List	   *names = NIL;
	List	   *there = NIL;
	ListCell   *lc;
	bool		has_role;

	if (!SplitGUCList(pstrdup(sau_guc_worker_databases), ',', &names))
		ereport(WARNING,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("softaudit.worker_databases is not a list of names")));
	if (names != NIL && *sau_guc_worker_role == '\0')
	{
		if (!told)
			ereport(LOG,
					(errmsg("softaudit: the background worker does nothing until softaudit.worker_role names a role"),
					 errhint("One that was granted EXECUTE on softaudit.maintain() in each database; not a superuser.")));
		told = true;
		names = NIL;
	}
	else
		told = false;

	/* what is dropped, or not there yet, is told and tried again after the next nap */
	StartTransactionCommand();
	has_role = names == NIL || is_there(AuthIdRelationId, Anum_pg_authid_rolname, sau_guc_worker_role);
	MemoryContextSwitchTo(cxt);
	foreach(lc, names)
		if (is_there(DatabaseRelationId, Anum_pg_database_datname, lfirst(lc)))
			there = lappend(there, lfirst(lc));
		else
			ereport(WARNING,
					(errcode(ERRCODE_UNDEFINED_DATABASE),
					 errmsg("softaudit: database \"%s\", which softaudit.worker_databases names, does not exist", (char *) lfirst(lc))));
	CommitTransactionCommand();
	MemoryContextSwitchTo(cxt);
	if (!has_role)
		ereport(WARNING,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("softaudit: role \"%s\", which softaudit.worker_role names, does not exist", sau_guc_worker_role)));
	else
		foreach(lc, there)
		{
			CHECK_FOR_INTERRUPTS();
			maintain_database(lfirst(lc));
		}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
}

void
softaudit_launcher_main(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	/* shared catalogs alone */
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	for (;;)
	{
		maintain_all();
		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 sau_guc_worker_naptime * 1000L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}

/* Is what we are to call in this database the extension's, and not somebody's of its name? */
static bool
is_installed(void)
{
	Oid			extension = get_extension_oid("softaudit", true);
	ObjectWithArgs *name = makeNode(ObjectWithArgs);
	Oid			maintain;

	if (!OidIsValid(extension))
		return false;
	name->objname = list_make2(makeString(SAU_SCHEMA), makeString("maintain"));
	maintain = LookupFuncWithArgs(OBJECT_PROCEDURE, name, true);
	return OidIsValid(maintain) && getExtensionOfObject(ProcedureRelationId, maintain) == extension;
}

/* Run the CALL as a client's would be run: it commits within, and a portal outlives that. */
static void
run_maintain(void)
{
	RawStmt    *parsed;
	List	   *plans;
	Portal		portal;
	DestReceiver *receiver = CreateDestReceiver(DestNone);
	MemoryContext cxt = AllocSetContextCreate(TopMemoryContext, "softaudit worker", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);

	parsed = linitial_node(RawStmt, pg_parse_query(maintain_sql));
	PushActiveSnapshot(GetTransactionSnapshot());
	plans = pg_plan_queries(pg_analyze_and_rewrite_fixedparams(parsed, maintain_sql, NULL, 0, NULL), maintain_sql, 0, NULL);
	PopActiveSnapshot();
	portal = CreatePortal("", true, true);
	portal->visible = false;
	PortalDefineQuery(portal, NULL, maintain_sql, CMDTAG_CALL, plans, NULL);
	PortalStart(portal, NULL, 0, InvalidSnapshot);
	(void) sau_compat_portal_run(portal, receiver);
	receiver->rDestroy(receiver);
	PortalDrop(portal, false);
	MemoryContextSwitchTo(old);
}

void
softaudit_worker_main(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(MyBgworkerEntry->bgw_extra, sau_guc_worker_role, 0);
	SetConfigOption("application_name", "softaudit worker", PGC_USERSET, PGC_S_SESSION);
	pgstat_report_appname("softaudit worker");

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (is_installed())
	{
		PopActiveSnapshot();
		debug_query_string = maintain_sql;
		pgstat_report_activity(STATE_RUNNING, maintain_sql);
		run_maintain();
		debug_query_string = NULL;
	}
	else
		PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_activity(STATE_IDLE, NULL);
	proc_exit(0);
}
