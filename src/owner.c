/*
 * owner.c
 *		SQL of ours, run as the extension's owner.
 *
 * Callers are functions that run as whoever called them and have checked him.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "softaudit.h"

/*
 * Run one statement of ours as the extension's owner, with the log's guards open.
 * What it does to relations is of no interest; an int8 in its first column is
 * returned, else 0.
 */
int64
sau_owner_run(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls)
{
	Oid			save_user;
	int			save_context;
	int64		result = 0;

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(sau_registry_owner(), save_context | SECURITY_LOCAL_USERID_CHANGE);
	sau_registry_enter_internal();
	PG_TRY();
	{
		int			ret;

		SPI_connect();
		ret = SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0);
		if (ret < 0)
			elog(ERROR, "SPI_execute_with_args failed: %s", SPI_result_code_string(ret));
		if (ret == SPI_OK_SELECT && SPI_processed > 0 &&
			SPI_gettypeid(SPI_tuptable->tupdesc, 1) == INT8OID)
		{
			bool		isnull;

			result = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		}
		SPI_finish();
	}
	PG_FINALLY();
	{
		sau_registry_leave_internal();
		SetUserIdAndSecContext(save_user, save_context);
	}
	PG_END_TRY();
	return result;
}

