//! Which names a topic may have: Kafka's rules.

use crate::Error;

/// Kafka's limit: a directory name `<topic>-<partition>` must fit a file system.
const NAME_CHARS_MAX: usize = 249;

/// Letters, digits, `.`, `_` and `-`; not empty, not `.` or `..`, at most 249 characters.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name == "." || name == ".." {
        "it is . or .."
    } else if name.len() > NAME_CHARS_MAX {
        "it is longer than 249 characters"
    } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
        "only letters, digits, . _ and - are allowed"
    } else {
        return Ok(());
    };
    Err(Error::InvalidTopic { name: name.chars().take(NAME_CHARS_MAX).collect(), reason })
}

/// Two names that differ only in `.` and `_` would share their metrics' name.
pub(crate) fn collides(one: &str, other: &str) -> bool {
    let plain = |byte: u8| if byte == b'.' { b'_' } else { byte };
    one.len() == other.len() && one != other && one.bytes().map(plain).eq(other.bytes().map(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "A.b_c-9", &"x".repeat(249), "..."] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "a b", "ä", "a/b", &"x".repeat(250)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(collides("a.b", "a_b"));
        assert!(!collides("a.b", "a.b"));
        assert!(!collides("a.b", "a-b"));
    }
}
