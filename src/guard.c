/*
 * guard.c
 *		What may raise, run so that the write goes on without it.
 *
 * Step of the path: an image is made of what output functions, casts and the expressions of
 * generated columns give.  What those refuse must not stop the write, so they run in a
 * subtransaction where they may refuse, and the caller puts something in the value's place.
 */
#include "postgres.h"

#include "access/xact.h"
#include "softaudit.h"
#include "utils/resowner.h"

/*
 * Errors that are not the value's fault go on to the user.  An allocation that is too
 * large is an internal error to PostgreSQL, and a large value's own fault.
 */
static bool
is_value_error(int sqlerrcode, bool is_big)
{
	int			class = ERRCODE_TO_CATEGORY(sqlerrcode);

	return class != ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) &&
		class != ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) &&
		class != ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR) &&
		class != ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK) &&
		(is_big || class != ERRCODE_TO_CATEGORY(ERRCODE_INTERNAL_ERROR));
}

/*
 * Call a function in a subtransaction, in the caller's memory context.  Returns false
 * where it raises for the value's sake; "is_big" says that the value may be at fault for
 * its size.
 */
bool
sau_guard_run(void (*function) (void *), void *arg, bool is_big)
{
	MemoryContext oldcxt = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;
	volatile bool refused = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(oldcxt);
	PG_TRY();
	{
		function(arg);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(oldcxt);
		CurrentResourceOwner = oldowner;
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(oldcxt);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(oldcxt);
		CurrentResourceOwner = oldowner;
		/* out of the subtransaction, whose end nobody above would see to */
		if (!is_value_error(edata->sqlerrcode, is_big))
			ReThrowError(edata);
		FreeErrorData(edata);
		refused = true;
	}
	PG_END_TRY();
	return !refused;
}
