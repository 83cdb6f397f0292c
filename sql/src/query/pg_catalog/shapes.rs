//! The columns of the catalog's tables, as PostgreSQL 15 has them (what nobody asks for is left out).

/// Tables that have rows: name and `column:type …`.
pub const FILLED: &[(&str, &str)] = &[
    ("pg_am", "oid:oid amname:name amhandler:oid amtype:char"),
    (
        "pg_attribute",
        "attrelid:oid attname:name atttypid:oid attstattarget:int4 attlen:int2 attnum:int2 attndims:int4 atttypmod:int4 \
         attbyval:bool attalign:char attstorage:char attcompression:char attnotnull:bool atthasdef:bool \
         atthasmissing:bool attidentity:char attgenerated:char attisdropped:bool attislocal:bool attinhcount:int4 \
         attcollation:oid attacl:text[] attoptions:text[] attfdwoptions:text[]",
    ),
    (
        "pg_class",
        "oid:oid relname:name relnamespace:oid reltype:oid reloftype:oid relowner:oid relam:oid relfilenode:oid \
         reltablespace:oid relpages:int4 reltuples:float4 relallvisible:int4 reltoastrelid:oid relhasindex:bool \
         relisshared:bool relpersistence:char relkind:char relnatts:int2 relchecks:int2 relhasrules:bool \
         relhastriggers:bool relhassubclass:bool relrowsecurity:bool relforcerowsecurity:bool relispopulated:bool \
         relreplident:char relispartition:bool relrewrite:oid relfrozenxid:oid relminmxid:oid relacl:text[] \
         reloptions:text[] relpartbound:text",
    ),
    (
        "pg_constraint",
        "oid:oid conname:name connamespace:oid contype:char condeferrable:bool condeferred:bool convalidated:bool \
         conrelid:oid contypid:oid conindid:oid conparentid:oid confrelid:oid confupdtype:char confdeltype:char \
         confmatchtype:char conislocal:bool coninhcount:int4 connoinherit:bool conkey:int2[] confkey:int2[] conbin:text",
    ),
    (
        "pg_database",
        "oid:oid datname:name datdba:oid encoding:int4 datlocprovider:char datistemplate:bool datallowconn:bool \
         datconnlimit:int4 dattablespace:oid datcollate:text datctype:text daticulocale:text datcollversion:text \
         datacl:text[]",
    ),
    (
        "pg_index",
        "indexrelid:oid indrelid:oid indnatts:int2 indnkeyatts:int2 indisunique:bool indnullsnotdistinct:bool \
         indisprimary:bool indisexclusion:bool indimmediate:bool indisclustered:bool indisvalid:bool indcheckxmin:bool \
         indisready:bool indislive:bool indisreplident:bool indkey:int2[] indexprs:text indpred:text",
    ),
    (
        "pg_matviews",
        "schemaname:name matviewname:name matviewowner:name tablespace:name hasindexes:bool ispopulated:bool definition:text",
    ),
    ("pg_namespace", "oid:oid nspname:name nspowner:oid nspacl:text[]"),
    (
        "pg_roles",
        "rolname:name rolsuper:bool rolinherit:bool rolcreaterole:bool rolcreatedb:bool rolcanlogin:bool \
         rolreplication:bool rolconnlimit:int4 rolpassword:text rolvaliduntil:timestamptz rolbypassrls:bool \
         rolconfig:text[] oid:oid",
    ),
    (
        "pg_settings",
        "name:text setting:text unit:text category:text short_desc:text context:text vartype:text source:text boot_val:text reset_val:text",
    ),
    (
        "pg_tables",
        "schemaname:name tablename:name tableowner:name tablespace:name hasindexes:bool hasrules:bool hastriggers:bool rowsecurity:bool",
    ),
    ("pg_tablespace", "oid:oid spcname:name spcowner:oid spcacl:text[] spcoptions:text[]"),
    (
        "pg_type",
        "oid:oid typname:name typnamespace:oid typowner:oid typlen:int2 typbyval:bool typtype:char typcategory:char \
         typispreferred:bool typisdefined:bool typdelim:char typrelid:oid typsubscript:text typelem:oid typarray:oid \
         typinput:text typoutput:text typreceive:text typsend:text typalign:char typstorage:char typnotnull:bool \
         typbasetype:oid typtypmod:int4 typndims:int4 typcollation:oid typdefault:text",
    ),
    (
        "pg_user",
        "usename:name usesysid:oid usecreatedb:bool usesuper:bool userepl:bool usebypassrls:bool passwd:text valuntil:timestamptz",
    ),
];

/// The standard's views: name and columns.
pub const INFORMATION: &[(&str, &str)] = &[
    (
        "columns",
        "table_catalog:name table_schema:name table_name:name column_name:name ordinal_position:int4 column_default:text \
         is_nullable:text data_type:text character_maximum_length:int4 character_octet_length:int4 \
         numeric_precision:int4 numeric_precision_radix:int4 numeric_scale:int4 datetime_precision:int4 \
         interval_type:text collation_name:name domain_name:name udt_catalog:name udt_schema:name udt_name:name \
         is_identity:text identity_generation:text is_generated:text generation_expression:text is_updatable:text",
    ),
    (
        "key_column_usage",
        "constraint_catalog:name constraint_schema:name constraint_name:name table_catalog:name table_schema:name \
         table_name:name column_name:name ordinal_position:int4 position_in_unique_constraint:int4",
    ),
    ("schemata", "catalog_name:name schema_name:name schema_owner:name"),
    (
        "table_constraints",
        "constraint_catalog:name constraint_schema:name constraint_name:name table_catalog:name table_schema:name \
         table_name:name constraint_type:text is_deferrable:text initially_deferred:text enforced:text",
    ),
    (
        "tables",
        "table_catalog:name table_schema:name table_name:name table_type:text is_insertable_into:text is_typed:text commit_action:text",
    ),
    (
        "views",
        "table_catalog:name table_schema:name table_name:name view_definition:text check_option:text is_updatable:text is_insertable_into:text",
    ),
];

/// Tables that never have a row here: there is nothing they could tell of.
pub const EMPTY: &[(&str, &str)] = &[
    ("pg_aggregate", "aggfnoid:oid aggkind:char aggnumdirectargs:int2"),
    ("pg_attrdef", "oid:oid adrelid:oid adnum:int2 adbin:text"),
    ("pg_auth_members", "roleid:oid member:oid grantor:oid admin_option:bool"),
    ("pg_cast", "oid:oid castsource:oid casttarget:oid castfunc:oid castcontext:char castmethod:char"),
    (
        "pg_collation",
        "oid:oid collname:name collnamespace:oid collowner:oid collprovider:char collisdeterministic:bool collencoding:int4 collcollate:text collctype:text colliculocale:text",
    ),
    (
        "pg_conversion",
        "oid:oid conname:name connamespace:oid conowner:oid conforencoding:int4 contoencoding:int4 conproc:oid condefault:bool",
    ),
    ("pg_db_role_setting", "setdatabase:oid setrole:oid setconfig:text[]"),
    ("pg_default_acl", "oid:oid defaclrole:oid defaclnamespace:oid defaclobjtype:char defaclacl:text[]"),
    ("pg_depend", "classid:oid objid:oid objsubid:int4 refclassid:oid refobjid:oid refobjsubid:int4 deptype:char"),
    ("pg_description", "objoid:oid classoid:oid objsubid:int4 description:text"),
    ("pg_enum", "oid:oid enumtypid:oid enumsortorder:float4 enumlabel:name"),
    ("pg_event_trigger", "oid:oid evtname:name evtevent:name evtowner:oid evtfoid:oid evtenabled:char evttags:text[]"),
    ("pg_extension", "oid:oid extname:name extowner:oid extnamespace:oid extrelocatable:bool extversion:text"),
    ("pg_foreign_data_wrapper", "oid:oid fdwname:name fdwowner:oid fdwhandler:oid fdwvalidator:oid"),
    (
        "pg_foreign_server",
        "oid:oid srvname:name srvowner:oid srvfdw:oid srvtype:text srvversion:text srvoptions:text[]",
    ),
    ("pg_foreign_table", "ftrelid:oid ftserver:oid ftoptions:text[]"),
    ("pg_indexes", "schemaname:name tablename:name indexname:name tablespace:name indexdef:text"),
    ("pg_inherits", "inhrelid:oid inhparent:oid inhseqno:int4 inhdetachpending:bool"),
    ("pg_largeobject_metadata", "oid:oid lomowner:oid lomacl:text[]"),
    ("pg_language", "oid:oid lanname:name lanowner:oid lanispl:bool lanpltrusted:bool"),
    (
        "pg_locks",
        "locktype:text database:oid relation:oid page:int4 tuple:int2 virtualxid:text pid:int4 mode:text granted:bool",
    ),
    (
        "pg_opclass",
        "oid:oid opcmethod:oid opcname:name opcnamespace:oid opcowner:oid opcfamily:oid opcintype:oid opcdefault:bool",
    ),
    ("pg_operator", "oid:oid oprname:name oprnamespace:oid oprkind:char oprleft:oid oprright:oid oprresult:oid"),
    (
        "pg_partitioned_table",
        "partrelid:oid partstrat:char partnatts:int2 partdefid:oid partattrs:int2[] partexprs:text",
    ),
    (
        "pg_policy",
        "oid:oid polname:name polrelid:oid polcmd:char polpermissive:bool polroles:oid[] polqual:text polwithcheck:text",
    ),
    ("pg_prepared_xacts", "gid:text owner:name database:name"),
    (
        "pg_proc",
        "oid:oid proname:name pronamespace:oid proowner:oid prolang:oid prokind:char prosecdef:bool proisstrict:bool \
         proretset:bool provolatile:char proparallel:char pronargs:int2 prorettype:oid proargtypes:oid[] \
         proallargtypes:oid[] proargnames:text[] prosrc:text",
    ),
    (
        "pg_publication",
        "oid:oid pubname:name pubowner:oid puballtables:bool pubinsert:bool pubupdate:bool pubdelete:bool pubtruncate:bool pubviaroot:bool",
    ),
    ("pg_publication_namespace", "oid:oid pnpubid:oid pnnspid:oid"),
    ("pg_publication_rel", "oid:oid prpubid:oid prrelid:oid prqual:text prattrs:int2[]"),
    ("pg_publication_tables", "pubname:name schemaname:name tablename:name"),
    ("pg_range", "rngtypid:oid rngsubtype:oid rngmultitypid:oid rngcollation:oid rngsubopc:oid"),
    ("pg_rewrite", "oid:oid rulename:name ev_class:oid ev_type:char ev_enabled:char is_instead:bool"),
    ("pg_rules", "schemaname:name tablename:name rulename:name definition:text"),
    ("pg_seclabel", "objoid:oid classoid:oid objsubid:int4 provider:text label:text"),
    (
        "pg_sequence",
        "seqrelid:oid seqtypid:oid seqstart:int8 seqincrement:int8 seqmax:int8 seqmin:int8 seqcache:int8 seqcycle:bool",
    ),
    (
        "pg_sequences",
        "schemaname:name sequencename:name sequenceowner:name start_value:int8 increment_by:int8 last_value:int8",
    ),
    ("pg_shdescription", "objoid:oid classoid:oid description:text"),
    (
        "pg_stat_activity",
        "datid:oid datname:name pid:int4 usesysid:oid usename:name application_name:text client_addr:text client_port:int4 backend_start:timestamptz query_start:timestamptz state:text query:text backend_type:text",
    ),
    (
        "pg_stat_user_tables",
        "relid:oid schemaname:name relname:name seq_scan:int8 idx_scan:int8 n_tup_ins:int8 n_tup_upd:int8 n_tup_del:int8 n_live_tup:int8 n_dead_tup:int8",
    ),
    ("pg_statio_user_tables", "relid:oid schemaname:name relname:name heap_blks_read:int8 heap_blks_hit:int8"),
    (
        "pg_statistic_ext",
        "oid:oid stxrelid:oid stxname:name stxnamespace:oid stxowner:oid stxstattarget:int4 stxkeys:int2[] stxkind:text[]",
    ),
    ("pg_subscription", "oid:oid subdbid:oid subname:name subowner:oid subenabled:bool"),
    (
        "pg_trigger",
        "oid:oid tgrelid:oid tgparentid:oid tgname:name tgfoid:oid tgtype:int2 tgenabled:char tgisinternal:bool tgconstraint:oid",
    ),
    ("pg_ts_config", "oid:oid cfgname:name cfgnamespace:oid cfgowner:oid cfgparser:oid"),
    ("pg_ts_dict", "oid:oid dictname:name dictnamespace:oid dictowner:oid dicttemplate:oid dictinitoption:text"),
    ("pg_ts_parser", "oid:oid prsname:name prsnamespace:oid"),
    ("pg_ts_template", "oid:oid tmplname:name tmplnamespace:oid tmplinit:oid tmpllexize:oid"),
    ("pg_user_mappings", "umid:oid srvid:oid srvname:name umuser:oid usename:name umoptions:text[]"),
    ("pg_views", "schemaname:name viewname:name viewowner:name definition:text"),
];
