/*
 * keyform.c
 *		The images that a key may have in the log.
 *
 * Step of the path: trail.c and the functions in SQL that go by a key ask here what it was logged
 * as: under other names of its columns, as a text where it is a number now or the other way
 * round, and by which number the log's indexes find each.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "softaudit.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

/* Of so many columns of a key other forms are looked for. */
#define MAX_TWO_FORMS	4

/*
 * The key of a log row: its own column, else made of the image's columns that the
 * registry names; NULL if it had none.
 */
Jsonb *
sau_keyform_from_image(Jsonb *image, char **names, int n)
{
	SauJsonbState state = {0};
	JsonbValue *found;
	JsonbValue	name;

	if (image == NULL || n == 0 || !JB_ROOT_IS_OBJECT(image))
		return NULL;
	sau_compat_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < n; i++)
	{
		found = getKeyJsonValueFromContainer(&image->root, names[i], strlen(names[i]), NULL);
		if (found == NULL)
			return NULL;
		name.type = jbvString;
		name.val.string.val = names[i];
		name.val.string.len = strlen(names[i]);
		sau_compat_push_jsonb(&state, WJB_KEY, &name);
		sau_compat_push_jsonb(&state, WJB_VALUE, found);
	}
	sau_compat_push_jsonb(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(state.result);
}

/* The value of an object's pair as a JSONB value of its own, and its name. */
static Jsonb *
value_at(Jsonb *object, int i, JsonbValue *name)
{
	JsonbIterator *it = JsonbIteratorInit(&object->root);
	JsonbValue	value;

	JsonbIteratorNext(&it, &value, true);
	for (int n = 0; n <= i; n++)
	{
		JsonbIteratorNext(&it, name, true);
		JsonbIteratorNext(&it, &value, true);
	}
	return JsonbValueToJsonb(&value);
}

/*
 * Are two key images of one table the same key?  A key column may have been renamed in
 * between: names that both have must have the same value, the rest of the values must
 * be the same ones.
 */
bool
sau_keyform_same(Jsonb *a, Jsonb *b)
{
	int			n = JB_ROOT_COUNT(a);
	bool		used[INDEX_MAX_KEYS] = {false};

	if (compareJsonbContainers(&a->root, &b->root) == 0)
		return true;
	if (JB_ROOT_COUNT(b) != n || n > INDEX_MAX_KEYS)
		return false;
	for (int pass = 0; pass < 2; pass++)
		for (int i = 0; i < n; i++)
		{
			JsonbValue	name_a;
			JsonbValue *same_name;
			Jsonb	   *va = value_at(a, i, &name_a);
			bool		matched = false;

			same_name = getKeyJsonValueFromContainer(&b->root, name_a.val.string.val,
													 name_a.val.string.len, NULL);
			if ((same_name != NULL) != (pass == 0))
				continue;
			for (int j = 0; j < n && !matched; j++)
			{
				JsonbValue	name_b;
				Jsonb	   *vb = value_at(b, j, &name_b);
				bool		names_match = name_a.val.string.len == name_b.val.string.len &&
					memcmp(name_a.val.string.val, name_b.val.string.val, name_a.val.string.len) == 0;

				if (!used[j] && (names_match || pass == 1) && compareJsonbContainers(&va->root, &vb->root) == 0)
					matched = used[j] = true;
			}
			if (!matched)
				return false;
		}
	return true;
}

/*
 * The number that a key is indexed by, of an image without its table: its columns are
 * called what the key's are called now (or last), or were when the table was enabled.
 */
int64
sau_keyform_ref(int32 table_id, const JsonbContainer *key)
{
	int			n = JsonContainerSize(key);
	int			order[INDEX_MAX_KEYS];
	int			first_order[INDEX_MAX_KEYS];
	int			n_names;
	int			known = -1;
	char	  **names;

	if (n == 1 || n > INDEX_MAX_KEYS)
		return sau_image_row_ref(table_id, key, NULL);
	names = sau_entry_key_columns(table_id, &n_names);
	if (n_names == n)
		known = sau_image_key_order(key, names, n, order);
	names = sau_entry_image_key(table_id, &n_names);
	if (n_names == n && known < n && sau_image_key_order(key, names, n, first_order) > known)
		return sau_image_row_ref(table_id, key, first_order);
	return sau_image_row_ref(table_id, key, known >= 0 ? order : NULL);
}

/* A number for its text, or the text for a number that is written as PostgreSQL writes it; false for any other value. */
static bool
other_form(JsonbValue *value)
{
	if (value->type == jbvNumeric)
	{
		char	   *digits = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));

		value->type = jbvString;
		value->val.string.val = digits;
		value->val.string.len = strlen(digits);
		return true;
	}
	if (value->type == jbvString)
	{
		char	   *digits = pnstrdup(value->val.string.val, value->val.string.len);
		char	   *p = digits + (*digits == '-');
		size_t		whole = strspn(p, "0123456789");
		size_t		rest = p[whole] == '.' ? strspn(p + whole + 1, "0123456789") : 0;

		if (whole == 0 || whole > 100 || rest > 100 || (*p == '0' && whole > 1) ||
			p[whole + (p[whole] == '.') + rest] != '\0' || (p[whole] == '.' && rest == 0))
			return false;
		value->type = jbvNumeric;
		value->val.numeric = DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(digits),
																 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
		return true;
	}
	return false;
}

/*
 * The images that a key was logged by where its columns were of other types: for a number
 * its text and the other way round, in each of the first columns that have both.
 */
List *
sau_keyform_others(int32 table_id, Jsonb *key)
{
	int			n = JB_ROOT_COUNT(key);
	List	   *forms = NIL;

	for (int mask = 1; mask < 1 << Min(n, MAX_TWO_FORMS); mask++)
	{
		SauJsonbState state = {0};
		SauKeyForm *form;
		int			i;

		sau_compat_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
		for (i = 0; i < n; i++)
		{
			JsonbValue	name;
			JsonbValue *value;

			(void) value_at(key, i, &name);
			value = getKeyJsonValueFromContainer(&key->root, name.val.string.val, name.val.string.len, NULL);
			if (i < MAX_TWO_FORMS && (mask & (1 << i)) && !other_form(value))
				break;
			sau_compat_push_jsonb(&state, WJB_KEY, &name);
			sau_compat_push_jsonb(&state, WJB_VALUE, value);
		}
		if (i < n)
			continue;
		sau_compat_push_jsonb(&state, WJB_END_OBJECT, NULL);
		form = palloc(sizeof(SauKeyForm));
		form->key = JsonbValueToJsonb(state.result);
		form->ref = sau_keyform_ref(table_id, &form->key->root);
		forms = lappend(forms, form);
	}
	return forms;
}

PG_FUNCTION_INFO_V1(softaudit_key_from_image);

/*
 * softaudit.key_from_image(row_key jsonb, image jsonb, image_key name[]): a log row's
 * key: its own, else made of the image's columns; NULL if it had none.
 */
Datum
softaudit_key_from_image(PG_FUNCTION_ARGS)
{
	Datum	   *elems;
	char	  **names;
	int			n;
	Jsonb	   *key;

	if (!PG_ARGISNULL(0))
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_NULL();
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &elems, NULL, &n);
	names = palloc(Max(n, 1) * sizeof(char *));
	for (int i = 0; i < n; i++)
		names[i] = NameStr(*DatumGetName(elems[i]));
	key = sau_keyform_from_image(PG_GETARG_JSONB_P(1), names, n);
	if (key == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(key);
}

PG_FUNCTION_INFO_V1(softaudit_row_ref);

/* softaudit.row_ref(table_id integer, key_image jsonb): what the log finds the changes of a row by. */
Datum
softaudit_row_ref(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(sau_keyform_ref(PG_GETARG_INT32(0), &PG_GETARG_JSONB_P(1)->root));
}

PG_FUNCTION_INFO_V1(softaudit_other_key_form);

/*
 * softaudit.other_key_form(value jsonb): the text of a number, or the number that a text is as PostgreSQL
 * writes it; NULL for any other value.
 */
Datum
softaudit_other_key_form(PG_FUNCTION_ARGS)
{
	JsonbValue	value;

	if (!JsonbExtractScalar(&PG_GETARG_JSONB_P(0)->root, &value) || !other_form(&value))
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(JsonbValueToJsonb(&value));
}
