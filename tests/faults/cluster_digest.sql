-- What belongs to the whole cluster; where a tablespace is may change, for a restored one is put elsewhere.
SELECT 'role ' || rolname, concat_ws(' ', rolsuper, rolcanlogin, rolconnlimit, rolpassword) FROM pg_authid ORDER BY 1;
SELECT 'member ' || roleid::regrole || ' ' || member::regrole, '' FROM pg_auth_members ORDER BY 1;
SELECT 'database ' || datname, concat_ws(' ', pg_get_userbyid(datdba), encoding, datcollate, datctype, datistemplate, datallowconn,
        ARRAY(SELECT item::text FROM unnest(datacl) item ORDER BY 1))
    FROM pg_database ORDER BY 1;
SELECT 'tablespace ' || spcname, pg_get_userbyid(spcowner) FROM pg_tablespace ORDER BY 1;
SELECT 'prepared ' || gid, owner || ' ' || database FROM pg_prepared_xacts ORDER BY 1;
