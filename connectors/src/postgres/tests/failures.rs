//! What goes wrong, and that it is said: the doctor, lost positions, restarts, rights.

use super::*;
use engine::io::{Connector, Finding};

use super::super::Postgres;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_and_a_crashed_server_go_on() {
    let server = Arc::new(Server::start());
    let client = server.database("shop").await;
    client.batch_execute("CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t DEFAULT VALUES").await.unwrap();
    let mut capture = Capture::snapshot("shop", server.options("shop", &[])).await;
    client.batch_execute("INSERT INTO t DEFAULT VALUES").await.unwrap();
    capture.settle(&client).await.unwrap();
    for mode in ["fast", "immediate"] {
        // The server stops when it has heard that everything it sent has arrived.
        let stopping = Arc::clone(&server);
        let stopped = tokio::task::spawn_blocking(move || stopping.stop(mode));
        let deadline = Deadline::new();
        let error = loop {
            deadline.check("the end of the stream");
            if let Err(error) = capture.step().await {
                break error;
            }
        };
        assert!(matches!(error, Error::Outside(_)), "{error:?}");
        stopped.await.unwrap();
        assert!(matches!(capture.restart().await.unwrap_err(), Error::Outside(_)));
        server.boot();
        let client = server.client("shop").await;
        client.batch_execute("INSERT INTO t DEFAULT VALUES").await.unwrap();
        capture.restart().await.unwrap();
        capture.settle(&client).await.unwrap();
    }
    let client = server.client("shop").await;
    let count: i64 = client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert_eq!(capture.fold("t").len(), usize::try_from(count).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_that_cannot_be_continued_is_lost() {
    let (server, client) = setup("lost", "CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut capture = Capture::snapshot("lost", server.options("lost", &[])).await;
    let stored = capture.position.clone().unwrap();
    let forge = |change: &dyn Fn(&mut Position)| {
        let mut position = Position::from_bytes(&stored).unwrap();
        change(&mut position);
        Some(position.to_bytes())
    };
    let cases: &[(Option<Vec<u8>>, &str)] = &[
        (forge(&|position| position.system = "1".into()), "another server"),
        (forge(&|position| position.database = "x".into()), "another database"),
        (forge(&|position| position.slot = "x".into()), "replication slot x"),
        (forge(&|position| position.end = Lsn(u64::MAX)), "restored or failed over"),
        (forge(&|position| position.end = Lsn(1)), "moved on"),
        (Some(b"nonsense".to_vec()), "cannot be read"),
    ];
    for (position, part) in cases {
        let error = message(&capture.source.start(position.clone()).await.unwrap_err());
        assert_says(&error, &["lost:", part]);
    }

    client.batch_execute("ALTER PUBLICATION riverrun_lost RENAME TO gone").await.unwrap();
    assert_says(&message(&capture.restart().await.unwrap_err()), &["lost:", "publication riverrun_lost is gone"]);
    client
        .batch_execute("ALTER PUBLICATION gone RENAME TO riverrun_lost; ALTER PUBLICATION riverrun_lost DROP TABLE t")
        .await
        .unwrap();
    assert_says(&message(&capture.restart().await.unwrap_err()), &["lost:", "no longer in the publication"]);
    client.batch_execute("ALTER PUBLICATION riverrun_lost ADD TABLE t").await.unwrap();
    capture.restart().await.unwrap();
    capture.settle(&client).await.unwrap();

    // Somebody else confirms what we have not stored.
    let deadline = Deadline::new();
    drop(std::mem::replace(&mut capture.source, open("lost", &capture.options).await.unwrap()));
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let advance = "SELECT pg_replication_slot_advance('riverrun_lost', pg_current_wal_lsn())";
    while client.batch_execute(advance).await.is_err() {
        deadline.check("the slot to become free");
    }
    assert_says(&message(&capture.restart().await.unwrap_err()), &["lost:", "riverrun_lost was moved on"]);
    client.batch_execute("SELECT pg_drop_replication_slot('riverrun_lost')").await.unwrap();
    assert_says(&message(&capture.restart().await.unwrap_err()), &["lost:", "slot riverrun_lost is gone"]);
    capture.source.remove().await.unwrap();
    capture.source.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidated_slot_is_lost() {
    let server = Server::start();
    let client = server.database("shop").await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE noise (v text)").await.unwrap();
    let mut capture = Capture::snapshot("shop", server.options("shop", &[("tables", "public.t")])).await;
    drop(std::mem::replace(&mut capture.source, open("shop", &capture.options).await.unwrap()));
    client.batch_execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let deadline = Deadline::new();
    let status = "SELECT wal_status FROM pg_replication_slots";
    while client.query_one(status, &[]).await.unwrap().get::<_, String>(0) != "lost" {
        deadline.check("the slot to be invalidated");
        client
            .batch_execute("INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 10000)")
            .await
            .unwrap();
        client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
        client.batch_execute("CHECKPOINT").await.unwrap();
    }
    assert_says(&message(&capture.restart().await.unwrap_err()), &["lost:", "invalidated", "max_slot_wal_keep_size"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_in_use_is_left_alone() {
    let (server, client) = setup("busy", "CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut capture = Capture::snapshot("busy", server.options("busy", &[])).await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    capture.settle(&client).await.unwrap();
    let mut second = open("busy", &capture.options).await.unwrap();
    assert_says(&message(&second.start(None).await.unwrap_err()), &["outside:", "riverrun_busy is in use by process"]);
    second.start(capture.position.clone()).await.unwrap();
    assert_says(&message(&second.next().await.unwrap_err()), &["outside:", "55006", "riverrun_busy"]);
    // The publication of somebody else is not touched.
    client.batch_execute("CREATE PUBLICATION theirs FOR TABLE t").await.unwrap();
    let options = server.options("busy", &[("publication.name", "theirs"), ("slot.name", "other")]);
    let mut third = open("busy", &options).await.unwrap();
    assert_says(&message(&third.start(None).await.unwrap_err()), &["user:", "publication theirs"]);
    capture.source.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_an_open_transaction_says_so() {
    let (server, client) = setup("waiting", "CREATE TABLE t (id int PRIMARY KEY)").await;
    let other = server.client("waiting").await;
    let mut source = open("waiting", &server.options("waiting", &[])).await.unwrap();
    source.settings.pace.slot_patience = Duration::from_millis(300);
    other.batch_execute("BEGIN; LOCK TABLE t IN SHARE MODE; CREATE TABLE with_a_number ()").await.unwrap();
    assert_says(
        &message(&source.start(None).await.unwrap_err()),
        &["outside:", "making the publication waits for locks", "postgres"],
    );
    other.batch_execute("ROLLBACK; BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    assert_says(
        &message(&source.start(None).await.unwrap_err()),
        &["outside:", "waits for open transactions", "postgres"],
    );
    other.batch_execute("COMMIT").await.unwrap();
    source.settings.pace.slot_patience = Duration::from_secs(60);
    source.start(None).await.unwrap();
    assert_eq!(source.next().await.unwrap().records.len(), 1);
    source.remove().await.unwrap();
    drop(client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_authenticate() {
    let (server, client) = setup("auth", "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    client
        .batch_execute(
            "DROP ROLE IF EXISTS scram; DROP ROLE IF EXISTS md5er; DROP ROLE IF EXISTS clear;
             CREATE ROLE scram SUPERUSER LOGIN PASSWORD 'se''cret'; CREATE ROLE clear SUPERUSER LOGIN PASSWORD 'se''cret';
             SET password_encryption = md5; CREATE ROLE md5er SUPERUSER LOGIN PASSWORD 'se''cret'",
        )
        .await
        .unwrap();
    let socket = format!("host={} port={} user=postgres dbname=auth", server.socket_folder().display(), server.port());
    let mut ways = vec![Options::from([("url".to_owned(), socket)])];
    for role in ["scram", "md5er", "clear"] {
        let url = server.url(role, "auth");
        ways.push(Options::from([("url".to_owned(), url), ("password".to_owned(), "se'cret".to_owned())]));
    }
    for options in &ways {
        let mut capture = Capture::snapshot("auth", options.clone()).await;
        assert_eq!(capture.log.len(), 1);
        capture.source.remove().await.unwrap();
    }
    for options in &mut ways[1..] {
        options.insert("password".into(), "wrong".into());
        let error = message(&Postgres.check("auth", options).await.unwrap_err());
        assert_says(&error, &["user:", "28P01"]);
        options.remove("password");
        let error = Postgres.check("auth", options).await.unwrap_err();
        assert!(matches!(error, Error::User { .. } | Error::Outside(_)), "{error:?}");
    }
}

async fn left(client: &Client) -> i64 {
    let sql = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())
                    + (SELECT count(*) FROM pg_publication)";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_is_removed_by_its_options_alone() {
    let (server, client) = setup("removed", "CREATE TABLE t (id int PRIMARY KEY)").await;
    let options = server.options("removed", &[("tables", "public.t")]);
    let capture = Capture::snapshot("removed", options.clone()).await;
    client.batch_execute("DROP TABLE t").await.unwrap();
    assert_says(&message(&open("removed", &options).await.err().unwrap()), &["user:", "public.t"]);
    assert_eq!(left(&client).await, 2);
    // While it still streams, and when nothing is left.
    Postgres.remove("removed", &options).await.unwrap();
    assert_eq!(left(&client).await, 0);
    Postgres.remove("removed", &options).await.unwrap();
    drop(capture);

    let mut away = options.clone();
    away.insert("url".into(), "postgres://postgres@127.0.0.1:1/removed".into());
    let error = message(&Postgres.remove("removed", &away).await.unwrap_err());
    let cure = ["pg_drop_replication_slot('riverrun_removed')", "DROP PUBLICATION IF EXISTS \"riverrun_removed\""];
    assert_says(&error, &["outside:", "127.0.0.1:1", "may be left"]);
    assert_says(&error, &cure);
    away.insert("url".into(), server.url("nobody", "removed"));
    let error = message(&Postgres.remove("removed", &away).await.unwrap_err());
    assert_says(&error, &["user:", "nobody", "may be left"]);
    assert_says(&error, &cure);
}

#[test]
fn the_oldest_version_is_the_same_everywhere() {
    use super::super::check::{VERSION_MIN, of_version};
    assert!(of_version(VERSION_MIN * 10_000).ok && of_version(180_001).ok);
    let refused = of_version(VERSION_MIN * 10_000 - 1);
    assert!(!refused.ok && !refused.warning);
    let said = format!("{VERSION_MIN} or newer");
    assert_says(refused.fix.as_deref().unwrap(), &[&said]);
    assert_says(include_str!("../../../../README.md"), &[&format!("Your own PostgreSQL ({said}")]);
}

fn failing(findings: &[Finding]) -> Vec<String> {
    let said = |finding: &Finding| format!("{} => {}", finding.what, finding.fix.as_deref().unwrap_or_default());
    findings.iter().filter(|finding| !finding.ok).map(said).collect()
}

fn found_of(found: &[String], table: &str) -> String {
    found.iter().find(|text| text.contains(table)).unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_names_what_is_missing_and_the_cure() {
    let (server, client) = setup(
        "doctor",
        "CREATE TABLE good (id int PRIMARY KEY); CREATE TABLE bare (id int);
         CREATE TABLE late (id int PRIMARY KEY DEFERRABLE);
         CREATE TABLE made (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);
         CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY LIST (id);
         CREATE TABLE part PARTITION OF parts DEFAULT; ALTER TABLE part REPLICA IDENTITY NOTHING;
         DROP ROLE IF EXISTS weak; CREATE ROLE weak LOGIN; REVOKE CREATE ON DATABASE doctor FROM PUBLIC",
    )
    .await;
    let check = |user: &'static str, more: &'static [(&'static str, &'static str)]| {
        let mut options = server.options("doctor", more);
        options.insert("url".into(), server.url(user, "doctor"));
        async move { Postgres.check("doctor", &options).await.unwrap() }
    };
    let found = failing(&check("postgres", &[]).await);
    assert_eq!(found.len(), 5, "{found:?}");
    assert_says(
        &found[0],
        &["public.bare", "UPDATE and DELETE", "ALTER TABLE \"public\".\"bare\" REPLICA IDENTITY FULL"],
    );
    assert_says(&found[1], &["public.late", "REPLICA IDENTITY FULL"]);
    assert_says(&found[2], &["public.made", "twice"]);
    assert_says(&found[3], &["public.parts", "REPLICA IDENTITY FULL"]);
    assert_says(&found[4], &["public.parts", "partition", "TRUNCATE"]);

    let found = failing(&check("weak", &[("tables", "public.good")]).await);
    assert_says(
        &found.join("\n"),
        &[
            "ALTER ROLE \"weak\" REPLICATION",
            "GRANT CREATE ON DATABASE \"doctor\"",
            "GRANT SELECT",
            "belongs to another role",
        ],
    );

    let good = &[("tables", "public.good")];
    assert_says(&found_of(&failing(&check("postgres", &[]).await), "bare"), &["exclude = 'public.bare'"]);
    let rest = &[("exclude", "public.bare, public.late, public.ma*, public.parts")];
    assert_eq!(failing(&check("postgres", rest).await), [""; 0]);
    assert_eq!(failing(&check("postgres", good).await), [""; 0]);
    assert_says(&failing(&check("postgres", &[("tables", "public.nope")]).await)[0], &["public.nope does not exist"]);
    client.batch_execute("SELECT pg_create_logical_replication_slot('riverrun_doctor', 'pgoutput'); CREATE PUBLICATION riverrun_doctor").await.unwrap();
    let found = failing(&check("postgres", good).await);
    assert_says(&found[0], &["slot riverrun_doctor exists already"]);
    assert_says(&found[1], &["publication riverrun_doctor", "DROP PUBLICATION"]);
    client.batch_execute("SELECT pg_drop_replication_slot('riverrun_doctor'); SELECT pg_create_physical_replication_slot('riverrun_doctor')").await.unwrap();
    assert_says(&failing(&check("postgres", good).await)[0], &["physical", "slot.name"]);
    client.batch_execute("SELECT pg_drop_replication_slot('riverrun_doctor')").await.unwrap();

    // Starting is refused too, not only advised against: the server would refuse the clients' updates.
    let mut source = open("doctor", &server.options("doctor", &[("tables", "public.bare")])).await.unwrap();
    assert_says(&message(&source.start(None).await.unwrap_err()), &["user:", "public.bare", "REPLICA IDENTITY FULL"]);
}
