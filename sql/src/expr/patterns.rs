//! Patterns that DataFusion does not know, as ones that it does: `SIMILAR TO` as a regular expression, `LIKE … ESCAPE`
//! with the backslash.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Value, ValueWithSpan};

use crate::error::{Error, Result, sqlstate};

/// `expr SIMILAR TO …` or `expr LIKE … ESCAPE …` in other words; the pattern must be a literal.
pub fn plain(expr: &Expr) -> Result<Expr> {
    match expr {
        Expr::SimilarTo { negated, expr, pattern, escape_char } => {
            let regex = similar(&literal(pattern, "SIMILAR TO")?, escape(escape_char.as_ref(), "SIMILAR TO")?)?;
            let op = if *negated { BinaryOperator::PGRegexNotMatch } else { BinaryOperator::PGRegexMatch };
            let right = Box::new(Expr::value(Value::SingleQuotedString(regex)));
            Ok(Expr::Nested(Box::new(Expr::BinaryOp { left: expr.clone(), op, right })))
        }
        Expr::Like { negated, any, expr, pattern, escape_char } => {
            let pattern = like(&literal(pattern, "LIKE … ESCAPE")?, escape(escape_char.as_ref(), "LIKE")?)?;
            let pattern = Box::new(Expr::value(Value::SingleQuotedString(pattern)));
            Ok(Expr::Like { negated: *negated, any: *any, expr: expr.clone(), pattern, escape_char: None })
        }
        Expr::ILike { negated, any, expr, pattern, escape_char } => {
            let pattern = like(&literal(pattern, "ILIKE … ESCAPE")?, escape(escape_char.as_ref(), "ILIKE")?)?;
            let pattern = Box::new(Expr::value(Value::SingleQuotedString(pattern)));
            Ok(Expr::ILike { negated: *negated, any: *any, expr: expr.clone(), pattern, escape_char: None })
        }
        other => Err(Error::bug(format!("{other} is no pattern"))),
    }
}

fn literal(pattern: &Expr, what: &str) -> Result<String> {
    match pattern {
        Expr::Value(ValueWithSpan {
            value: Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text),
            ..
        }) => Ok(text.clone()),
        _ => Err(Error::unsupported(format!("{what} with a pattern that is no literal"))),
    }
}

/// `None`: nothing escapes.
fn escape(given: Option<&ValueWithSpan>, what: &str) -> Result<Option<char>> {
    let Some(given) = given else { return Ok(Some('\\')) };
    let Value::SingleQuotedString(text) = &given.value else {
        return Err(Error::unsupported(format!("{what} with an ESCAPE that is no literal")));
    };
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (first, None) => Ok(first),
        _ => Err(Error::new(sqlstate::INVALID_ESCAPE_SEQUENCE, "invalid escape string")
            .hint("escape string must be empty or one character")),
    }
}

fn dangling() -> Error {
    Error::new(sqlstate::INVALID_ESCAPE_SEQUENCE, "LIKE pattern must not end with escape character")
}

/// The same pattern with a backslash as its escape.
fn like(pattern: &str, escape: Option<char>) -> Result<String> {
    let mut out = String::with_capacity(pattern.len());
    let mut characters = pattern.chars();
    while let Some(c) = characters.next() {
        if Some(c) == escape {
            out.push('\\');
            out.push(characters.next().ok_or_else(dangling)?);
        } else {
            if c == '\\' {
                out.push('\\');
            }
            out.push(c);
        }
    }
    Ok(out)
}

/// A regular expression that matches what the SQL pattern does: all of a text, `%` and `_`, and the signs
/// `| * + ? { } ( ) [ ]`.
fn similar(pattern: &str, escape: Option<char>) -> Result<String> {
    let mut out = String::from("^(?s:");
    let mut in_class = false;
    let mut characters = pattern.chars();
    while let Some(c) = characters.next() {
        if Some(c) == escape {
            let next = characters.next().ok_or_else(dangling)?;
            if !next.is_alphanumeric() {
                out.push('\\');
            }
            out.push(next);
            continue;
        }
        match c {
            ']' => in_class = false,
            '[' => in_class = true,
            _ => {}
        }
        match c {
            '%' if !in_class => out.push_str(".*"),
            '_' if !in_class => out.push('.'),
            '(' if !in_class => out.push_str("(?:"),
            '.' | '^' | '$' | '\\' if !in_class => {
                out.push('\\');
                out.push(c);
            }
            '\\' => out.push_str("\\\\"),
            _ => out.push(c),
        }
    }
    out.push_str(")$");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        assert_eq!(like("a!%b\\", Some('!')).expect("a pattern"), "a\\%b\\\\");
        assert_eq!(like("a%", None).expect("a pattern"), "a%");
        assert_eq!(like("a!", Some('!')).expect_err("an error").code, "22025");
        assert_eq!(similar("(b|a)%", Some('\\')).expect("a pattern"), "^(?s:(?:b|a).*)$");
        assert_eq!(similar("a.[_%]\\%", Some('\\')).expect("a pattern"), "^(?s:a\\.[_%]\\%)$");
    }
}
