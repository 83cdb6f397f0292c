//! A server that says nothing: given up when it does not answer either, and only then.

use std::process::Command;

use super::*;

async fn walsender(client: &Client) -> Option<i32> {
    let sql = "SELECT pid FROM pg_stat_replication WHERE application_name = 'riverrun silent'";
    client.query_opt(sql, &[]).await.unwrap().map(|row| row.get(0))
}

fn signal(name: &str, pid: i32) {
    assert!(Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_left_and_come_back_to() {
    let (server, client) = setup("silent", "CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut options = server.options("silent", &[]);
    let url = format!("{}?options=-c%20wal_sender_timeout%3D3s", options["url"]);
    options.insert("url".into(), url);
    let mut capture = Capture::snapshot("silent", options).await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    capture.settle(&client).await.unwrap();

    // Twice the time by the server's clock in which nothing happens: it answers when it is asked.
    let pid = walsender(&client).await.unwrap();
    let over = "SELECT clock_timestamp() > since + interval '7 s' FROM since";
    client.batch_execute("CREATE TEMP TABLE since AS SELECT clock_timestamp() AS since").await.unwrap();
    let deadline = Deadline::new();
    while !client.query_one(over, &[]).await.unwrap().get::<_, bool>(0) {
        deadline.check("seven seconds");
        capture.step().await.unwrap();
    }
    assert_eq!(walsender(&client).await, Some(pid));

    signal("STOP", pid);
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    let deadline = Deadline::new();
    let error = loop {
        deadline.check("the silence to be noticed");
        if let Err(error) = capture.step().await {
            break message(&error);
        }
    };
    signal("CONT", pid);
    assert_says(&error, &["outside:", "said nothing for 3s"]);
    // The server's side of the former connection may hold the slot a little longer.
    let deadline = Deadline::new();
    while capture.restart().await.is_err() || capture.settle(&client).await.is_err() {
        deadline.check("the stream to go on");
    }
    assert_eq!(capture.fold("t").len(), 2);
    // And so may one that was given up on the way here.
    let deadline = Deadline::new();
    while capture.source.remove().await.is_err() {
        deadline.check("the slot to be free");
    }
}
