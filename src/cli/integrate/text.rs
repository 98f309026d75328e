//! Texts with blanks.

/// A template with each `@name@` replaced by the value of that name. What is between two `@` and no
/// such name stays.
pub fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('@') {
        text.push_str(before);
        let named = after.split_once('@').and_then(|(name, tail)| {
            let (_, value) = values.iter().find(|(known, _)| *known == name)?;
            Some((value, tail))
        });
        match named {
            Some((value, tail)) => {
                text.push_str(value);
                rest = tail;
            }
            None => {
                text.push('@');
                rest = after;
            }
        }
    }
    text + rest
}

/// Lines as comments of HCL, YAML, nginx, shells and environment files alike.
pub fn comment(text: &str) -> String {
    let lines = text.lines();
    let comment = |line: &str| match line {
        "" => "#\n".to_owned(),
        line => format!("# {line}\n"),
    };
    lines.map(comment).collect()
}

/// What only the user knows: given on the command line, or left to be written into what is printed.
#[derive(Debug, Default)]
pub struct Blanks(Vec<(&'static str, &'static str)>);

impl Blanks {
    /// What was given with an option, or else a word to be replaced.
    pub fn take(
        &mut self,
        given: Option<&String>,
        option: &'static str,
        word: &'static str,
    ) -> String {
        given.cloned().unwrap_or_else(|| {
            self.0.push((word, option));
            word.to_owned()
        })
    }

    /// A line for each that is still to be filled in where it occurs in a text.
    pub fn notes(&self, text: &str) -> Vec<String> {
        let left = self.0.iter().filter(|(word, _)| text.contains(word));
        left.map(|(word, option)| format!("replace {word}, or give {option}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_as_it_is_whatever_it_holds() {
        let values = [("a", "@b@"), ("b", "x")];
        assert_eq!(fill("@a@ @b@ @c@ jwt=@/f", &values), "@b@ x @c@ jwt=@/f");
    }

    #[test]
    fn comments_have_no_space_at_the_end() {
        assert_eq!(comment("a\n\nb"), "# a\n#\n# b\n");
    }
}
