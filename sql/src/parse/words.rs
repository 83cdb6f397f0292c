//! [`Words`]: sqlparser's parser with errors in our form and the places of tokens at hand.

use std::sync::Arc;

use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, TokenizerError};

use super::ast::{self, Ident};
use super::{Name, Query};
use crate::error::{Error, Location, Result, byte_at, location_of, sqlstate};

static DIALECT: PostgreSqlDialect = PostgreSqlDialect {};

/// Nested expressions and subqueries deeper than this are refused; the parser recurses.
const DEPTH_MAX: usize = 50;

/// Operators in a row (`a OR b OR c …`) that an expression may have: each makes it one level deeper for all that walk it.
const CHAIN_MAX: usize = 1_000;

/// Relations that are joined or united in a row.
const RELATIONS_MAX: usize = 250;

/// The tokens of a text and how far they are read.
pub struct Words {
    pub parser: Parser<'static>,
    pub source: Arc<str>,
}

impl Words {
    pub fn new(text: &str) -> Result<Self> {
        let tokens = Tokenizer::new(&DIALECT, text).tokenize_with_location().map_err(|e| from_tokenizer(e, text))?;
        check_chains(&tokens).map_err(|e| e.within(text))?;
        let parser = Parser::new(&DIALECT).with_recursion_limit(DEPTH_MAX).with_tokens_with_locations(tokens);
        Ok(Self { parser, source: Arc::from(text) })
    }

    /// Runs one of sqlparser's own productions.
    pub fn run<T>(&mut self, production: impl FnOnce(&mut Parser<'static>) -> Result<T, ParserError>) -> Result<T> {
        production(&mut self.parser).map_err(|e| self.error_of(e))
    }

    pub fn location(&self) -> Option<Location> {
        location_of(self.parser.peek_token_ref().span)
    }

    /// Whether the next word is `word` (upper case), keyword or not.
    pub fn is(&self, word: &str) -> bool {
        is_word(self.parser.peek_token_ref(), word)
    }

    /// Takes `word` when it is next.
    pub fn take(&mut self, word: &str) -> bool {
        let found = self.is(word);
        if found {
            self.parser.next_token();
        }
        found
    }

    /// Takes all of `words` when they are next, or none.
    pub fn take_all(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(n, word)| is_word(self.parser.peek_nth_token_ref(n), word));
        if found {
            words.iter().for_each(|_| drop(self.parser.next_token()));
        }
        found
    }

    pub fn expect(&mut self, word: &str) -> Result<()> {
        if self.take(word) { Ok(()) } else { Err(self.unexpected(&format!("{word} was expected"))) }
    }

    pub fn take_token(&mut self, token: &Token) -> bool {
        self.parser.consume_token(token)
    }

    pub fn expect_token(&mut self, token: &Token) -> Result<()> {
        if self.take_token(token) { Ok(()) } else { Err(self.unexpected(&format!("\"{token}\" was expected"))) }
    }

    pub fn at_end(&self) -> bool {
        matches!(self.parser.peek_token_ref().token, Token::EOF | Token::SemiColon)
    }

    /// PostgreSQL's words for a token that does not fit here.
    pub fn unexpected(&self, detail: &str) -> Error {
        let next = self.parser.peek_token_ref();
        syntax_error(&next.token.to_string(), next.token == Token::EOF, location_of(next.span)).detail(detail)
    }

    /// The place of the next token as a byte of the source; its end at the end.
    pub fn byte(&self) -> usize {
        let next = self.parser.peek_token_ref();
        match location_of(next.span) {
            Some(location) if next.token != Token::EOF => byte_at(&self.source, location),
            _ => self.source.len(),
        }
    }

    /// The text from byte `from` to the next token.
    pub fn text_since(&self, from: usize) -> String {
        self.source[from..self.byte()].trim_end().to_string()
    }

    pub fn identifier(&mut self) -> Result<String> {
        let ident = self.run(|p| p.parse_identifier())?;
        Ok(fold(&ident))
    }

    pub fn name(&mut self) -> Result<Name> {
        let location = self.location();
        let name = self.run(|p| p.parse_object_name(false))?;
        name_of(&name, location)
    }

    /// `(a, b, …)`.
    pub fn identifiers(&mut self) -> Result<Vec<String>> {
        self.expect_token(&Token::LParen)?;
        let mut out = vec![self.identifier()?];
        while self.take_token(&Token::Comma) {
            out.push(self.identifier()?);
        }
        self.expect_token(&Token::RParen)?;
        Ok(out)
    }

    pub fn query(&mut self) -> Result<Query> {
        let from = self.byte();
        let mut ast = match self.run(|p| p.parse_query()) {
            Ok(ast) => ast,
            Err(error) => return Err(refused_window(&self.source).unwrap_or(error)),
        };
        super::names::complete(&mut ast);
        Ok(Query { ast, text: self.text_since(from), source: Arc::clone(&self.source) })
    }

    pub fn if_not_exists(&mut self) -> bool {
        self.take_all(&["IF", "NOT", "EXISTS"])
    }

    pub fn if_exists(&mut self) -> bool {
        self.take_all(&["IF", "EXISTS"])
    }

    /// sqlparser writes the place at the end of its message; we take it off again.
    fn error_of(&self, error: ParserError) -> Error {
        let text = match error {
            ParserError::RecursionLimitExceeded => {
                return Error::new(sqlstate::STATEMENT_TOO_COMPLEX, "the statement is nested too deeply")
                    .detail(format!("limit: {DEPTH_MAX} levels"));
            }
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => text,
        };
        let (text, location) = split_place(&text);
        match text.split_once(", found: ") {
            Some((expected, found)) => {
                let wanted = expected.strip_prefix("Expected: ").unwrap_or(expected);
                syntax_error(found, found == "EOF", location).detail(format!("{wanted} was expected"))
            }
            None => Error::new(sqlstate::SYNTAX_ERROR, text).at(location.or_else(|| self.location())),
        }
    }
}

/// Counts what may be operators and relations, by parenthesis: what stands in a row becomes as deep as it is long.
#[derive(Default)]
struct Chain {
    operators: usize,
    relations: usize,
    in_from: bool,
}

fn check_chains(tokens: &[TokenWithSpan]) -> Result<()> {
    let mut levels = vec![Chain::default()];
    for token in tokens {
        let nested = levels.len() > 1;
        let level = levels.last_mut().expect("one is never taken away");
        match &token.token {
            Token::LParen | Token::LBracket => levels.push(Chain::default()),
            Token::RParen | Token::RBracket if nested => drop(levels.pop()),
            Token::SemiColon => *level = Chain::default(),
            Token::Comma => {
                level.operators = 0;
                level.relations += usize::from(level.in_from);
            }
            Token::Word(word) => level.word(word.keyword),
            Token::Whitespace(_) | Token::Number(..) | Token::Period | Token::SingleQuotedString(_) => {}
            _ => level.operators += 1,
        }
        let level = levels.last().expect("one is never taken away");
        let over = match (level.operators > CHAIN_MAX, level.relations > RELATIONS_MAX) {
            (true, _) => format!("more than {CHAIN_MAX} operators in a row"),
            (_, true) => format!("more than {RELATIONS_MAX} relations in a row"),
            _ => continue,
        };
        return Err(Error::new(sqlstate::STATEMENT_TOO_COMPLEX, "the statement is too complex")
            .detail(over)
            .hint("use IN (…) for many values, or several statements")
            .at(location_of(token.span)));
    }
    Ok(())
}

impl Chain {
    fn word(&mut self, keyword: Keyword) {
        match keyword {
            Keyword::AND
            | Keyword::OR
            | Keyword::NOT
            | Keyword::IS
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::BETWEEN
            | Keyword::COLLATE
            | Keyword::AT => self.operators += 1,
            Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT | Keyword::JOIN => self.relations += 1,
            Keyword::FROM => (self.operators, self.in_from) = (0, true),
            Keyword::SELECT | Keyword::WHERE | Keyword::GROUP | Keyword::HAVING | Keyword::ORDER => {
                (self.operators, self.in_from) = (0, false);
            }
            _ => {}
        }
    }
}

/// `TUMBLE(TABLE t, DESCRIPTOR(c), …)` is not of the parser's grammar: named here, where parsing has failed.
fn refused_window(source: &str) -> Option<Error> {
    let tokens = Tokenizer::new(&DIALECT, source).tokenize_with_location().ok()?;
    let words: Vec<&TokenWithSpan> = tokens.iter().filter(|t| !matches!(t.token, Token::Whitespace(_))).collect();
    words.windows(3).find_map(|next| {
        let window = ["TUMBLE", "HOP", "CUMULATE", "SESSION"].into_iter().find(|name| is_word(next[0], name))?;
        let called = next[1].token == Token::LParen && is_word(next[2], "TABLE");
        called.then(|| Error::unsupported(format!("the window {window}")).at(location_of(next[0].span)))
    })
}

fn syntax_error(found: &str, at_end: bool, location: Option<Location>) -> Error {
    let message = match at_end {
        true => "syntax error at end of input".to_string(),
        false => format!("syntax error at or near \"{found}\""),
    };
    Error::new(sqlstate::SYNTAX_ERROR, message).at(location)
}

fn from_tokenizer(error: TokenizerError, text: &str) -> Error {
    Error::new(sqlstate::SYNTAX_ERROR, error.message)
        .at(Location::new(error.location.line, error.location.column))
        .within(text)
}

/// `"… at Line: 2, Column: 7"` to its text and place.
fn split_place(text: &str) -> (&str, Option<Location>) {
    let parsed = text.rsplit_once(" at Line: ").and_then(|(head, place)| {
        let (line, column) = place.split_once(", Column: ")?;
        Some((head, Location::new(line.parse().ok()?, column.parse().ok()?)?))
    });
    match parsed {
        Some((head, location)) => (head, Some(location)),
        None => (text, None),
    }
}

fn is_word(token: &TokenWithSpan, word: &str) -> bool {
    match &token.token {
        Token::Word(w) => w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word),
        _ => false,
    }
}

/// PostgreSQL folds what is not quoted.
pub fn fold(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

pub fn name_of(name: &ast::ObjectName, location: Option<Location>) -> Result<Name> {
    let mut parts = Vec::with_capacity(name.0.len());
    for part in &name.0 {
        match part.as_ident() {
            Some(ident) => parts.push(fold(ident)),
            None => return Err(Error::new(sqlstate::SYNTAX_ERROR, format!("{name} is not a name")).at(location)),
        }
    }
    Ok(Name { parts, location })
}
