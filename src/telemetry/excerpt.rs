//! Excerpts of outside text for the log and the status.

/// The characters of one text in a log line or in the status.
pub const LOGGED: usize = 500;

/// Returns the beginning of `text`, of at most `characters`. A frame may carry text of megabytes.
pub fn excerpt(text: &str, characters: usize) -> &str {
    match text.char_indices().nth(characters) {
        Some((end, _)) => text.split_at(end).0,
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_the_beginning_in_whole_characters() {
        assert_eq!(excerpt("äöü", 2), "äö");
        assert_eq!(excerpt("äöü", 3), "äöü");
        assert_eq!(excerpt("", 3), "");
        assert_eq!(excerpt("äöü", 0), "");
    }
}
