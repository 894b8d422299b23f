//! The comments of the protos, by what they stand on.

use std::collections::HashMap;

use prost_reflect::{
    DescriptorPool, EnumDescriptor, EnumValueDescriptor, FieldDescriptor, MessageDescriptor,
    MethodDescriptor, ServiceDescriptor,
};

/// Every comment that stands before something.
#[derive(Debug, Default)]
pub(crate) struct Comments(HashMap<(String, Vec<i32>), String>);

impl Comments {
    /// Of all files in the pool; none where the descriptor set was made without source.
    pub(crate) fn of(pool: &DescriptorPool) -> Self {
        let mut comments = HashMap::new();
        for file in pool.files() {
            let Some(source) = &file.file_descriptor_proto().source_code_info else {
                continue;
            };
            for location in &source.location {
                if let Some(comment) = &location.leading_comments {
                    comments.insert((file.name().to_owned(), location.path.clone()), tidy(comment));
                }
            }
        }
        Self(comments)
    }

    fn at(&self, file: &str, path: &[i32]) -> &str {
        // The key is made for the look-up: this runs when documents are made, not when requests are.
        self.0
            .get(&(file.to_owned(), path.to_vec()))
            .map_or("", String::as_str)
    }

    pub(crate) fn service(&self, of: &ServiceDescriptor) -> &str {
        self.at(of.parent_file().name(), of.path())
    }

    pub(crate) fn method(&self, of: &MethodDescriptor) -> &str {
        self.at(of.parent_file().name(), of.path())
    }

    pub(crate) fn message(&self, of: &MessageDescriptor) -> &str {
        self.at(of.parent_file().name(), of.path())
    }

    pub(crate) fn field(&self, of: &FieldDescriptor) -> &str {
        self.at(of.parent_file().name(), of.path())
    }

    pub(crate) fn enumeration(&self, of: &EnumDescriptor) -> &str {
        self.at(of.parent_file().name(), of.path())
    }

    pub(crate) fn value(&self, of: &EnumValueDescriptor) -> &str {
        self.at(of.parent_file().name(), of.path())
    }
}

/// Lines joined to paragraphs, without the space after `//`.
fn tidy(comment: &str) -> String {
    let mut text = String::new();
    for line in comment.lines().map(str::trim) {
        if line.is_empty() {
            text.push_str("\n\n");
        } else {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push(' ');
            }
            text.push_str(line);
        }
    }
    text.trim().to_owned()
}

/// The first sentence without its full stop, and what comes after it.
pub(crate) fn first_sentence(text: &str) -> (&str, &str) {
    let end = [". ", ".\n"]
        .iter()
        .filter_map(|end| text.find(end))
        .min()
        .unwrap_or(text.len());
    let (sentence, rest) = text.split_at(end);
    (
        sentence.trim_end_matches('.'),
        rest.trim_start_matches('.').trim(),
    )
}

/// What a service is about: its first sentence up to a colon.
pub(crate) fn title(text: &str) -> &str {
    let (sentence, _) = first_sentence(text);
    sentence.split_once(": ").map_or(sentence, |(title, _)| title)
}

#[cfg(test)]
mod tests {
    use super::{first_sentence, tidy, title};

    #[test]
    fn lines_become_paragraphs() {
        assert_eq!(
            tidy(" One line\n and more.\n\n Errors: NONE.\n"),
            "One line and more.\n\nErrors: NONE."
        );
    }

    #[test]
    fn the_first_sentence_is_a_title() {
        assert_eq!(first_sentence("One server."), ("One server", ""));
        assert_eq!(first_sentence("Makes it. Then more."), ("Makes it", "Then more."));
        assert_eq!(
            first_sentence("Makes it.\n\nErrors: X."),
            ("Makes it", "Errors: X.")
        );
        assert_eq!(first_sentence(""), ("", ""));
        assert_eq!(title("API keys: for programs. More."), "API keys");
        assert_eq!(title("Members and invitations."), "Members and invitations");
    }
}
