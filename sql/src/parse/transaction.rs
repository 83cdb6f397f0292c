//! BEGIN, COMMIT, ROLLBACK and SET TRANSACTION: their options are read, and what cannot be kept is refused.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::words::Words;
use super::{Modes, Set, Statement};
use crate::error::{Error, Result};

/// `BEGIN [WORK | TRANSACTION] mode, …`
pub fn begin(words: &mut Words) -> Result<Statement> {
    let _ = words.take("WORK") || words.take("TRANSACTION");
    modes(words).map(Statement::Begin)
}

/// `START TRANSACTION mode, …`
pub fn start(words: &mut Words) -> Result<Statement> {
    words.expect("TRANSACTION")?;
    modes(words).map(Statement::Begin)
}

/// `COMMIT | ROLLBACK [WORK | TRANSACTION] [AND [NO] CHAIN]`
pub fn end(words: &mut Words, statement: Statement) -> Result<Statement> {
    let _ = words.take("WORK") || words.take("TRANSACTION");
    let at = words.location();
    if words.take("TO") {
        return Err(Error::unsupported("ROLLBACK TO SAVEPOINT").at(at));
    }
    if words.take_all(&["AND", "CHAIN"]) {
        return Err(Error::unsupported("AND CHAIN").at(at).hint("begin the next transaction with BEGIN"));
    }
    words.take_all(&["AND", "NO", "CHAIN"]);
    Ok(statement)
}

/// What follows `SET [LOCAL | SESSION] TRANSACTION`, or `SET SESSION CHARACTERISTICS`.
pub fn set(words: &mut Words, session: bool) -> Result<Statement> {
    if session {
        words.expect("AS")?;
        words.expect("TRANSACTION")?;
    }
    if words.at_end() {
        return Err(words.unexpected("a transaction mode was expected"));
    }
    let modes = modes(words)?;
    Ok(Statement::Set(if session { Set::Characteristics(modes) } else { Set::Transaction(modes) }))
}

fn modes(words: &mut Words) -> Result<Modes> {
    let mut modes = Modes::default();
    while !words.at_end() {
        let at = words.location();
        if words.take_all(&["ISOLATION", "LEVEL"]) {
            if words.is("SERIALIZABLE") || words.is("REPEATABLE") {
                let level = if words.is("REPEATABLE") { "REPEATABLE READ" } else { "SERIALIZABLE" };
                return Err(Error::unsupported(format!("ISOLATION LEVEL {level}"))
                    .at(at)
                    .hint("use READ COMMITTED: each SELECT reads all its relations at one epoch"));
            }
            words.expect("READ")?;
            if !words.take("COMMITTED") && !words.take("UNCOMMITTED") {
                return Err(words.unexpected("an isolation level was expected"));
            }
        } else if words.take_all(&["READ", "ONLY"]) {
            modes.read_only = Some(true);
        } else if words.take_all(&["READ", "WRITE"]) {
            modes.read_only = Some(false);
        } else if !words.take("DEFERRABLE") && !words.take_all(&["NOT", "DEFERRABLE"]) {
            return Err(words.unexpected("a transaction mode was expected"));
        }
        if words.take_token(&Token::Comma) && words.at_end() {
            return Err(words.unexpected("a transaction mode was expected"));
        }
    }
    Ok(modes)
}
