//! The doctor: everything that would keep a source from working, or harm the database, each with what mends it.

use engine::io::{self, Finding};
use tokio_postgres::Client;

use super::catalog::{self, Table};
use super::choice::excluding;
use super::config::Settings;
use super::error::Error;
use super::protocol::walsender::{Walsender, quoted};
use super::server;

/// The oldest major version that its makers still mend; what is needed (slots that say `wal_status`, publications by
/// partition roots) came before it. The README names it too.
pub const VERSION_MIN: u32 = 14;

/// Looks; changes nothing. An error means that the server cannot be asked at all.
pub async fn check(settings: &Settings) -> Result<Vec<Finding>, io::Error> {
    let client = server::connect(settings).await?;
    let version = server::version(&client).await?;
    let mut findings = vec![of_version(version)];
    if !findings[0].ok {
        return Ok(findings);
    }
    settings_of_server(&client, &mut findings).await?;
    if findings.iter().all(|finding| finding.ok || finding.warning) {
        replication(settings, &mut findings).await;
    }
    leftovers(&client, settings, &mut findings).await?;
    match catalog::find(&client, &settings.tables).await {
        Ok(tables) => tables.iter().for_each(|table| of_table(table, &mut findings)),
        Err(io::Error::User { message, hint }) => {
            findings.push(Finding { ok: false, warning: false, what: message, fix: hint });
        }
        Err(error) => return Err(error),
    }
    Ok(findings)
}

/// `version` as `server_version_num` has it.
pub fn of_version(version: u32) -> Finding {
    finding(
        version / 10_000 >= VERSION_MIN,
        format!("server version {}.{}", version / 10_000, version % 10_000),
        format!("riverrun needs PostgreSQL {VERSION_MIN} or newer"),
    )
}

fn finding(ok: bool, what: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { ok, warning: false, what: what.into(), fix: (!ok).then(|| fix.into()) }
}

fn warning(what: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { ok: false, warning: true, what: what.into(), fix: Some(fix.into()) }
}

const SETTINGS: &str = "
    SELECT current_setting('wal_level'), pg_is_in_recovery(), current_user::text, current_database()::text,
           r.rolsuper OR r.rolreplication OR EXISTS (SELECT FROM pg_roles m
               WHERE m.rolname = 'rds_replication' AND pg_has_role(current_user, m.oid, 'MEMBER')),
           current_setting('max_replication_slots')::int8, (SELECT count(*) FROM pg_replication_slots),
           current_setting('max_wal_senders')::int8, (SELECT count(*) FROM pg_stat_replication),
           has_database_privilege(current_database(), 'CREATE'), current_setting('server_encoding'),
           current_setting('synchronous_standby_names')
    FROM pg_roles r WHERE r.rolname = current_user";

async fn settings_of_server(client: &Client, findings: &mut Vec<Finding>) -> Result<(), Error> {
    let row = client.query_one(SETTINGS, &[]).await?;
    let (wal_level, role, database): (String, String, String) = (row.get(0), row.get(2), row.get(3));
    findings.push(finding(
        wal_level == "logical",
        format!("wal_level is {wal_level}"),
        "ALTER SYSTEM SET wal_level = logical; then restart the server (on RDS: rds.logical_replication = 1)",
    ));
    findings.push(finding(
        !row.get::<_, bool>(1),
        if row.get(1) { "the server is a standby" } else { "the server is a primary" },
        "point the url to the primary",
    ));
    findings.push(finding(
        row.get(4),
        format!("role {role} {} replicate", if row.get(4) { "may" } else { "may not" }),
        format!("ALTER ROLE {0} REPLICATION (on RDS: GRANT rds_replication TO {0})", quoted(&role)),
    ));
    for (setting, most, used) in [
        ("max_replication_slots", row.get::<_, i64>(5), row.get::<_, i64>(6)),
        ("max_wal_senders", row.get(7), row.get(8)),
    ] {
        findings.push(finding(
            used < most,
            format!("{setting}: {used} of {most} in use"),
            format!("ALTER SYSTEM SET {setting} = {}; then restart the server; or drop what is not used", most + 5),
        ));
    }
    findings.push(finding(
        row.get(9),
        format!(
            "role {role} {} create a publication in database {database}",
            if row.get(9) { "may" } else { "may not" }
        ),
        format!("GRANT CREATE ON DATABASE {} TO {}", quoted(&database), quoted(&role)),
    ));
    let encoding: String = row.get(10);
    if encoding == "SQL_ASCII" {
        findings.push(warning(
            "the database's encoding is SQL_ASCII: text that is not UTF-8 stops the source",
            "use a database with the encoding UTF8",
        ));
    }
    // To the server a logical stream is a standby like others.
    let standbys: String = row.get(11);
    if standbys.contains('*') {
        findings.push(warning(
            format!("synchronous_standby_names is {standbys}: commits may wait for this source, also while it does not run"),
            "name those that commits are to wait for: ALTER SYSTEM SET synchronous_standby_names = …; then SELECT pg_reload_conf()",
        ));
    }
    Ok(())
}

/// A connection in replication mode has its own lines in pg_hba.conf.
async fn replication(settings: &Settings, findings: &mut Vec<Finding>) {
    let asked = async {
        let mut walsender = Walsender::connect(&settings.server, &settings.application()).await?;
        walsender.identify().await
    };
    findings.push(match asked.await {
        Ok(_) => finding(true, "a replication connection can be opened", ""),
        Err(error) => finding(
            false,
            format!("a replication connection cannot be opened: {error}"),
            "allow it in pg_hba.conf: host <database> <role> <address> scram-sha-256; then SELECT pg_reload_conf()",
        ),
    });
}

async fn leftovers(client: &Client, settings: &Settings, findings: &mut Vec<Finding>) -> Result<(), Error> {
    let name = &settings.slot;
    if let Some(slot) = server::slot(client, name).await? {
        let another = "give another slot.name";
        findings.push(if slot.plugin.as_deref() != Some("pgoutput") {
            finding(false, format!("replication slot {name} exists: {}", server::belongs(&slot)), another)
        } else if let Some(pid) = slot.active_pid {
            finding(false, server::in_use(name, pid, slot.application.as_deref()), another)
        } else {
            let lost = if slot.wal_status.as_deref() == Some("lost") { ", is lost" } else { "" };
            warning(
                format!(
                    "replication slot {name} exists already{lost} and is not in use: a source that begins drops it"
                ),
                format!("if another riverrun uses it, {another}; if not, nothing is to be done"),
            )
        });
    }
    let name = &settings.publication;
    if let Some(comment) = server::publication(client, name).await?
        && comment.as_deref() != Some(&server::mark(settings))
    {
        findings.push(finding(
            false,
            format!("publication {name} exists and was not made for this source"),
            format!("give another publication.name, or DROP PUBLICATION {}", quoted(name)),
        ));
    }
    Ok(())
}

fn of_table(table: &Table, findings: &mut Vec<Finding>) {
    let (name, sql_name) = (table.full_name(), table.sql_name());
    let before = findings.len();
    if !table.selectable {
        findings.push(finding(
            false,
            format!("table {name} may not be read"),
            format!("GRANT USAGE ON SCHEMA {}, GRANT SELECT ON {sql_name} to the role", quoted(&table.schema)),
        ));
    }
    if !table.owned {
        findings.push(finding(
            false,
            format!("table {name} belongs to another role and cannot be put into a publication"),
            format!("connect as its owner, or GRANT the owner's role to this one ({sql_name})"),
        ));
    }
    if !table.identified {
        findings.push(finding(false, no_identity(table), no_identity_fix(table)));
    }
    if findings.len() == before {
        findings.push(finding(true, format!("table {name} can be captured"), ""));
    }
    if table.partitioned {
        findings.push(warning(
            format!("table {name} is partitioned: TRUNCATE, ATTACH, DETACH and DROP of a single partition are not in the stream"),
            "use DELETE and INSERT on the table for rows that are to come and go, or capture the source anew afterwards",
        ));
    }
    if !table.generated.is_empty() {
        findings.push(warning(
            format!("table {name}: the generated columns {} are left out", table.generated.join(", ")),
            "compute them in a view: PostgreSQL does not send them in the stream",
        ));
    }
}

pub fn no_identity(table: &Table) -> String {
    let name = table.full_name();
    format!("table {name} has no usable replica identity: once it is published, UPDATE and DELETE on it would fail")
}

pub fn no_identity_fix(table: &Table) -> String {
    let name = table.sql_name();
    let excluded = excluding(&table.schema, &table.name);
    format!(
        "ALTER TABLE {name} REPLICA IDENTITY FULL; or give it a primary key; or leave it out with exclude = {excluded}"
    )
}
