-- Everything that a person could miss, a line each: what it is, its name, and a sum over its content.
-- Rows are read from the table itself, so that an index in want of repair changes nothing here.
SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off;
SELECT format('SELECT %L, count(*)::text || '' rows '' || coalesce(md5(string_agg(t::text, chr(10) ORDER BY t::text COLLATE "C")), ''-'') FROM ONLY %s t',
        format('%s %s', CASE WHEN c.relkind = 'm' THEN 'derived' WHEN c.relpersistence = 'u' THEN 'unlogged' ELSE 'table' END, c.oid::regclass), c.oid::regclass)
    FROM pg_class c WHERE c.relkind IN ('r', 'm') AND c.relnamespace NOT IN (11, 99) AND c.relnamespace::regnamespace::text <> 'information_schema'
    ORDER BY c.oid::regclass::text
\gexec
SELECT format('SELECT %L, last_value || '' '' || is_called FROM %s', format('sequence %s', c.oid::regclass), c.oid::regclass)
    FROM pg_class c WHERE c.relkind = 'S' ORDER BY c.oid::regclass::text
\gexec
SELECT 'relation ' || c.oid::regclass, concat_ws(' ', c.relkind, c.relpersistence, pg_get_userbyid(c.relowner), c.relacl, t.spcname,
        (SELECT string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull), ',' ORDER BY a.attnum)
            FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
        CASE WHEN c.relkind IN ('i', 'I') THEN pg_get_indexdef(c.oid) WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END,
        obj_description(c.oid, 'pg_class'))
    FROM pg_class c LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace
    WHERE c.relnamespace NOT IN (11, 99) AND c.relnamespace::regnamespace::text <> 'information_schema' ORDER BY 1;
SELECT 'constraint ' || conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace NOT IN (11, 99) AND connamespace::regnamespace::text <> 'information_schema'
    AND conrelid <> 0 ORDER BY 1;
SELECT 'function ' || oid::regprocedure, md5(pg_get_functiondef(oid))
    FROM pg_proc WHERE pronamespace NOT IN (11, 99) AND pronamespace::regnamespace::text <> 'information_schema' ORDER BY 1;
SELECT 'type ' || enumtypid::regtype, string_agg(enumlabel, ',' ORDER BY enumsortorder) FROM pg_enum GROUP BY enumtypid ORDER BY 1;
