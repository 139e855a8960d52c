-- test/property/setup.sql - schemas, types and functions that the property test's tables are
-- made of. Run under the fixed settings, once in the test's own database.
CREATE SCHEMA prop;
CREATE SCHEMA "Odd Schéma";
CREATE SCHEMA shadow;
-- Relations, types and functions that hide built-in ones from who has "shadow" first in its path.
CREATE TABLE shadow.pg_class (a int);
CREATE TYPE shadow.int4 AS ENUM ('no number');
CREATE FUNCTION shadow.now() RETURNS text LANGUAGE sql AS 'SELECT ''then''';
CREATE FUNCTION shadow.lower(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
CREATE TEXT SEARCH CONFIGURATION shadow.english (COPY = pg_catalog.simple);
CREATE TABLE "Odd Schéma"."Select" ("from" int);
CREATE TABLE public.plain_table (a int);

-- ---- types ----
CREATE TYPE prop.mood AS ENUM ('sad', 'ok', 'a "quoted" one', 'ü', '', 'x,y', E'tab\there',
	'a label of sixty-three bytes, the longest one there is, no more');
CREATE TYPE prop.cast_mood AS ENUM ('low', 'high');
CREATE FUNCTION prop.cast_mood_json(prop.cast_mood) RETURNS json IMMUTABLE STRICT LANGUAGE sql
	AS $$ SELECT CASE $1::text WHEN 'low' THEN json '{"level": 1, "at": [1.50, null]}' ELSE json '2.00' END $$;
CREATE CAST (prop.cast_mood AS json) WITH FUNCTION prop.cast_mood_json(prop.cast_mood);
CREATE TYPE prop.pair AS (a int, b text, "Größe ""x""" numeric, d timestamptz, e bytea, f money, g float8, h interval);
CREATE TYPE prop.nest AS (p prop.pair, "ps" prop.pair[], z real, r tstzrange, j jsonb, m prop.mood, dd date[]);
CREATE TYPE prop.cut AS (a int, gone text, b timestamptz, gone2 int, c text);
ALTER TYPE prop.cut DROP ATTRIBUTE gone;
ALTER TYPE prop.cut DROP ATTRIBUTE gone2;
CREATE TYPE prop.none AS ();
CREATE TABLE prop.row_type (a int, gone text, c float8, d date);
ALTER TABLE prop.row_type DROP COLUMN gone;
CREATE TYPE prop.with_json AS (a int, j json);

CREATE TYPE prop.text_range AS RANGE (SUBTYPE = text, COLLATION = "C", MULTIRANGE_TYPE_NAME = prop.text_multirange);
CREATE TYPE prop.float_range AS RANGE (SUBTYPE = float8, SUBTYPE_DIFF = float8mi, MULTIRANGE_TYPE_NAME = prop.float_multirange);
CREATE TYPE prop.bytea_range AS RANGE (SUBTYPE = bytea, MULTIRANGE_TYPE_NAME = prop.bytea_multirange);
CREATE TYPE prop.interval_range AS RANGE (SUBTYPE = interval, MULTIRANGE_TYPE_NAME = prop.interval_multirange);
CREATE TYPE prop.money_range AS RANGE (SUBTYPE = money, MULTIRANGE_TYPE_NAME = prop.money_multirange);
CREATE TYPE prop.time_range AS RANGE (SUBTYPE = time, MULTIRANGE_TYPE_NAME = prop.time_multirange);

CREATE DOMAIN prop.d_int AS int CHECK (VALUE IS NULL OR VALUE > -1000000000);
CREATE DOMAIN prop.d_text AS varchar(40);
CREATE DOMAIN prop.d_numeric AS numeric(20,6);
CREATE DOMAIN prop.d_tstz AS timestamptz;
CREATE DOMAIN prop.d_tstz2 AS prop.d_tstz;
CREATE DOMAIN prop.d_bytea AS bytea;
CREATE DOMAIN prop.d_float AS float8;
CREATE DOMAIN prop.d_interval AS interval;
CREATE DOMAIN prop.d_money AS money;
CREATE DOMAIN prop.d_pair AS prop.pair;
CREATE DOMAIN prop.d_ints AS int[];
CREATE DOMAIN prop.d_tstzs AS timestamptz[];
CREATE DOMAIN prop.d_range AS tstzrange;
CREATE DOMAIN prop.d_mood AS prop.mood;
CREATE DOMAIN prop.d_jsonb AS jsonb;
CREATE DOMAIN prop.d_json AS json;
CREATE DOMAIN prop.d_bool AS bool;
CREATE DOMAIN prop.d_class AS regclass;
CREATE DOMAIN prop.d_casted AS prop.cast_mood;
CREATE DOMAIN prop.d_d_text AS prop.d_text;

-- Base types of our own, on the input and output functions of built-in ones.
CREATE TYPE prop.u_float;
CREATE FUNCTION prop.u_float_in(cstring) RETURNS prop.u_float STRICT IMMUTABLE LANGUAGE internal AS 'float8in';
CREATE FUNCTION prop.u_float_out(prop.u_float) RETURNS cstring STRICT IMMUTABLE LANGUAGE internal AS 'float8out';
CREATE TYPE prop.u_float (INPUT = prop.u_float_in, OUTPUT = prop.u_float_out, LIKE = float8);
CREATE CAST (float8 AS prop.u_float) WITHOUT FUNCTION;
CREATE TYPE prop.u_tstz;
CREATE FUNCTION prop.u_tstz_in(cstring) RETURNS prop.u_tstz STRICT IMMUTABLE LANGUAGE internal AS 'timestamptz_in';
CREATE FUNCTION prop.u_tstz_out(prop.u_tstz) RETURNS cstring STRICT IMMUTABLE LANGUAGE internal AS 'timestamptz_out';
CREATE TYPE prop.u_tstz (INPUT = prop.u_tstz_in, OUTPUT = prop.u_tstz_out, LIKE = timestamptz);
CREATE CAST (timestamptz AS prop.u_tstz) WITHOUT FUNCTION;
CREATE TYPE prop.u_bytea;
CREATE FUNCTION prop.u_bytea_in(cstring) RETURNS prop.u_bytea STRICT IMMUTABLE LANGUAGE internal AS 'byteain';
CREATE FUNCTION prop.u_bytea_out(prop.u_bytea) RETURNS cstring STRICT IMMUTABLE LANGUAGE internal AS 'byteaout';
CREATE TYPE prop.u_bytea (INPUT = prop.u_bytea_in, OUTPUT = prop.u_bytea_out, LIKE = bytea);
CREATE CAST (bytea AS prop.u_bytea) WITHOUT FUNCTION;
CREATE TYPE prop.u_text;
CREATE FUNCTION prop.u_text_in(cstring) RETURNS prop.u_text STRICT IMMUTABLE LANGUAGE internal AS 'textin';
CREATE FUNCTION prop.u_text_out(prop.u_text) RETURNS cstring STRICT IMMUTABLE LANGUAGE internal AS 'textout';
CREATE TYPE prop.u_text (INPUT = prop.u_text_in, OUTPUT = prop.u_text_out, LIKE = text);
CREATE CAST (text AS prop.u_text) WITHOUT FUNCTION;
-- One with a cast to json: to_jsonb() takes the cast.
CREATE TYPE prop.u_cast;
CREATE FUNCTION prop.u_cast_in(cstring) RETURNS prop.u_cast STRICT IMMUTABLE LANGUAGE internal AS 'textin';
CREATE FUNCTION prop.u_cast_out(prop.u_cast) RETURNS cstring STRICT IMMUTABLE LANGUAGE internal AS 'textout';
CREATE TYPE prop.u_cast (INPUT = prop.u_cast_in, OUTPUT = prop.u_cast_out, LIKE = text);
CREATE CAST (text AS prop.u_cast) WITHOUT FUNCTION;
CREATE CAST (prop.u_cast AS text) WITHOUT FUNCTION;
CREATE FUNCTION prop.u_cast_json(prop.u_cast) RETURNS json STABLE STRICT LANGUAGE sql
	AS $$ SELECT json_build_object('v', $1::text, 'at', timestamptz '2024-02-03 04:05:06.7+00', 'i', interval '1 day 2 hours') $$;
CREATE CAST (prop.u_cast AS json) WITH FUNCTION prop.u_cast_json(prop.u_cast) AS ASSIGNMENT;

-- ---- random values; who calls them has called setseed() ----
CREATE FUNCTION prop.ri(n int) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT floor(random() * n)::int';

CREATE FUNCTION prop.rchar() RETURNS text VOLATILE LANGUAGE sql AS $$
	SELECT chr(CASE floor(k)::int
		WHEN 0 THEN 1 + floor(r * 31)::int
		WHEN 1 THEN CASE WHEN r < 0.5 THEN 34 ELSE 92 END
		WHEN 2 THEN 128 + floor(r * 1920)::int
		WHEN 3 THEN 2048 + floor(r * 53248)::int
		WHEN 4 THEN 57344 + floor(r * 8192)::int
		WHEN 5 THEN 65536 + floor(r * 1048576)::int
		ELSE 32 + floor(r * 95)::int END)
	FROM (SELECT random() * 12 AS k, random() AS r OFFSET 0) x $$;

CREATE FUNCTION prop.rtext(maxlen int) RETURNS text VOLATILE LANGUAGE plpgsql AS $$
DECLARE
	s text := '';
BEGIN
	FOR i IN 1 .. prop.ri(maxlen + 1) LOOP
		s := s || prop.rchar();
	END LOOP;
	RETURN s;
END $$;

CREATE FUNCTION prop.rbytea(maxlen int) RETURNS bytea VOLATILE LANGUAGE sql AS $$
	SELECT coalesce(string_agg(decode(lpad(to_hex(prop.ri(256)), 2, '0'), 'hex'), ''::bytea), ''::bytea)
	FROM generate_series(1, prop.ri(maxlen + 1)) $$;

-- Text that does not compress, of about n characters.
CREATE FUNCTION prop.rlong(n int) RETURNS text VOLATILE LANGUAGE sql AS $$
	SELECT string_agg(md5(random()::text), '') FROM generate_series(1, n / 32) $$;

CREATE FUNCTION prop.rfloat() RETURNS float8 VOLATILE LANGUAGE sql AS $$
	SELECT CASE floor(k)::int
		WHEN 0 THEN s * floor(r * 1000)
		WHEN 1 THEN s * r
		WHEN 2 THEN s * floor(r * 9007199254740992)
		WHEN 3 THEN s * round((r * 100000)::numeric, 2)::float8
		WHEN 4 THEN s * (('1e' || (floor(r * 40) - 20)::text)::float8)
		ELSE s * (r + 0.1) * (('1e' || (floor(q * 610) - 305)::text)::float8) END
	FROM (SELECT random() * 8 AS k, random() AS r, random() AS q, CASE WHEN random() < 0.5 THEN -1 ELSE 1 END AS s OFFSET 0) x $$;

CREATE FUNCTION prop.rnumeric() RETURNS numeric VOLATILE LANGUAGE plpgsql AS $$
DECLARE
	s text := CASE WHEN random() < 0.5 THEN '-' ELSE '' END;
BEGIN
	FOR i IN 0 .. prop.ri(CASE WHEN random() < 0.1 THEN 200 ELSE 20 END) LOOP
		s := s || CASE WHEN random() < 0.3 THEN '0' ELSE prop.ri(10)::text END;
	END LOOP;
	IF random() < 0.6 THEN
		s := s || '.';
		FOR i IN 0 .. prop.ri(CASE WHEN random() < 0.1 THEN 100 ELSE 8 END) LOOP
			s := s || CASE WHEN random() < 0.4 THEN '0' ELSE prop.ri(10)::text END;
		END LOOP;
	END IF;
	IF random() < 0.15 THEN
		s := s || 'e' || (prop.ri(400) - 200);
	END IF;
	RETURN s::numeric;
END $$;

CREATE FUNCTION prop.rjson_string() RETURNS text VOLATILE LANGUAGE sql AS $$
	SELECT CASE WHEN r < 0.2 THEN '"\u00e9\n\t\\\/\"\b\f"' WHEN r < 0.3 THEN '"\ud83d\ude00"' WHEN r < 0.4 THEN '""'
		WHEN r < 0.7 THEN '"' || prop.ri(50) || '"' ELSE to_json(prop.rtext(12))::text END
	FROM (SELECT random() AS r OFFSET 0) x $$;

CREATE FUNCTION prop.rjson(depth int) RETURNS text VOLATILE LANGUAGE plpgsql AS $$
DECLARE
	kind int := prop.ri(CASE WHEN depth <= 0 THEN 7 ELSE 12 END);
	s text;
	n int;
BEGIN
	CASE
		WHEN kind = 0 THEN RETURN 'null';
		WHEN kind = 1 THEN RETURN 'true';
		WHEN kind = 2 THEN RETURN 'false';
		WHEN kind <= 4 THEN
			RETURN (ARRAY['0', '-0', '1.500', '1E+10', '-1.25e-7', '12345678901234567890.000000000000000001', '3',
				'1e400', '0.00000', '9007199254740993'])[1 + prop.ri(10)];
		WHEN kind <= 6 THEN RETURN prop.rjson_string();
		WHEN kind <= 8 THEN
			s := '[';
			FOR i IN 1 .. prop.ri(5) LOOP
				s := s || CASE WHEN i > 1 THEN ' , ' ELSE '' END || prop.rjson(depth - 1);
			END LOOP;
			RETURN s || ']';
		ELSE
			s := '{ ';
			n := CASE WHEN random() < 0.1 THEN 30 + prop.ri(60) ELSE prop.ri(6) END;
			FOR i IN 1 .. n LOOP
				s := s || CASE WHEN i > 1 THEN ',' ELSE '' END || prop.rjson_string() || ':' || prop.rjson(depth - 1);
			END LOOP;
			RETURN s || '}';
	END CASE;
END $$;

-- ---- what the log should hold ----

-- The fixed settings of images, as a function's settings.
CREATE FUNCTION prop.stand_in(typ oid, v text, exact boolean) RETURNS jsonb LANGUAGE sql
	SET search_path = pg_catalog AS $$
	SELECT jsonb_build_object('$softaudit', 'unrepresentable', 'type', format_type(typ, NULL),
		'bytes', CASE WHEN exact THEN octet_length(v) END,
		'sha256', CASE WHEN exact THEN encode(sha256(convert_to(v, 'UTF8')), 'hex') ELSE '?' END) $$;

-- to_jsonb() of a row; where it raises, column by column with API.md's stand-in for a value that
-- to_jsonb() refuses. Size and digest are known here for json alone; "?" leaves them open.
CREATE FUNCTION prop.image_of(r anyelement) RETURNS jsonb LANGUAGE plpgsql
	SET search_path = pg_catalog SET timezone = 'UTC' SET datestyle = 'ISO' SET intervalstyle = 'postgres'
	SET bytea_output = 'hex' SET extra_float_digits = 1 SET lc_monetary = 'C' SET quote_all_identifiers = off AS $$
DECLARE
	a record;
	v jsonb;
	t text;
	image jsonb := '{}';
BEGIN
	BEGIN
		RETURN to_jsonb(r);
	EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
		NULL;
	END;
	FOR a IN SELECT attname, atttypid, prop.base_type(atttypid) AS base FROM pg_attribute
			WHERE attrelid = (SELECT typrelid FROM pg_type WHERE oid = pg_typeof(r)::oid) AND attnum > 0 AND NOT attisdropped
	LOOP
		EXECUTE format('SELECT ($1).%I::text', a.attname) INTO t USING r;
		BEGIN
			EXECUTE format('SELECT to_jsonb(($1).%I)', a.attname) INTO v USING r;
		EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
			v := prop.stand_in(a.atttypid, t, a.base = 'json'::regtype);
		END;
		image := image || jsonb_build_object(a.attname, v);
	END LOOP;
	RETURN image;
END $$;

CREATE FUNCTION prop.base_type(t oid) RETURNS oid LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
	WITH RECURSIVE b AS (SELECT t AS oid UNION ALL SELECT typbasetype FROM b JOIN pg_type USING (oid) WHERE typtype = 'd')
	SELECT b.oid FROM b JOIN pg_type USING (oid) WHERE typtype <> 'd' $$;

-- The image found, with size and digest left open where the image expected leaves them open.
CREATE FUNCTION prop.loosen(image jsonb, expected jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	k text;
BEGIN
	IF expected IS NULL OR image IS NULL OR expected::text NOT LIKE '%"sha256": "?"%' THEN
		RETURN image;
	END IF;
	FOR k IN SELECT key FROM jsonb_each(expected) WHERE jsonb_typeof(value) = 'object' AND value ->> 'sha256' = '?' LOOP
		IF image #>> ARRAY[k, 'sha256'] ~ '^[0-9a-f]{64}$' AND jsonb_typeof(image #> ARRAY[k, 'bytes']) = 'number' THEN
			image := jsonb_set(jsonb_set(image, ARRAY[k, 'sha256'], '"?"'), ARRAY[k, 'bytes'], 'null');
		END IF;
	END LOOP;
	RETURN image;
END $$;

CREATE UNLOGGED TABLE prop.step (tab text, k bigint, step int, image jsonb);

-- Are two values the same to the last byte, stored compressed or not?
CREATE FUNCTION prop.same(a jsonb, b jsonb) RETURNS boolean IMMUTABLE LANGUAGE sql
	AS $$ SELECT ROW(a)::record *= ROW(b)::record $$;

-- With images => 'changes': is what was found a cut of the expected images that holds every
-- change and the key, and nothing that is not so?
CREATE FUNCTION prop.changes_ok(o jsonb, n jsonb, found_o jsonb, found_n jsonb, key_columns text[]) RETURNS boolean LANGUAGE sql AS $$
	SELECT found_o IS NOT NULL AND found_n IS NOT NULL
		AND NOT EXISTS (SELECT FROM jsonb_each(found_o) f WHERE NOT prop.same(f.value, o -> f.key))
		AND NOT EXISTS (SELECT FROM jsonb_each(found_n) f WHERE NOT prop.same(f.value, n -> f.key))
		AND NOT EXISTS (SELECT FROM jsonb_each(o) f WHERE (f.key = ANY (key_columns) OR NOT prop.same(f.value, n -> f.key))
			AND NOT (found_o ? f.key AND found_n ? f.key))
		AND prop.same(found_o, (SELECT jsonb_object_agg(key, value) FROM jsonb_each(found_o)))
		AND prop.same(found_n, (SELECT jsonb_object_agg(key, value) FROM jsonb_each(found_n))) $$;

-- ---- captures for checking the test itself ----
CREATE UNLOGGED TABLE prop.log (tab text, operation text, old_data jsonb, new_data jsonb);
CREATE FUNCTION prop.capture_pinned() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO prop.log VALUES (TG_TABLE_NAME, TG_OP,
		CASE WHEN TG_OP <> 'INSERT' THEN prop.image_of(OLD) END, CASE WHEN TG_OP <> 'DELETE' THEN prop.image_of(NEW) END);
	RETURN NULL;
END $$;
CREATE FUNCTION prop.capture_plain() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		INSERT INTO prop.log VALUES (TG_TABLE_NAME, TG_OP,
			CASE WHEN TG_OP <> 'INSERT' THEN pg_catalog.to_jsonb(OLD) END, CASE WHEN TG_OP <> 'DELETE' THEN pg_catalog.to_jsonb(NEW) END);
	EXCEPTION WHEN data_exception THEN
		NULL;
	END;
	RETURN NULL;
END $$;
