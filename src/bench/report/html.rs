//! HTML text: escaping, tables, and SVG made fit to stand inside a page.

/// Escapes text for element content and for attribute values in double quotes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Characters from which on a cell is no figure but a sentence, a reason say, which wraps.
const SENTENCE: usize = 48;

/// A table of figures in a box that scrolls sideways; the first column holds row headings. Cells are plain text.
pub(super) fn table(caption: &str, head: &[String], rows: &[Vec<String>]) -> String {
    table_of(caption, "figures", head, rows, None)
}

/// As [`table`], of words, which stand to the left and wrap. One column, by its index, may be in English on a page of
/// whatever language: words of the CSV file.
pub(super) fn table_of_words(
    caption: &str,
    head: &[String],
    rows: &[Vec<String>],
    english: Option<usize>,
) -> String {
    table_of(caption, "words", head, rows, english)
}

fn table_of(
    caption: &str,
    class: &str,
    head: &[String],
    rows: &[Vec<String>],
    english: Option<usize>,
) -> String {
    let caption = escape(caption);
    let mut out = format!(
        "<div class=\"scroll\" role=\"group\" aria-label=\"{caption}\" tabindex=\"0\"><table class=\"{class}\">\
         <caption>{caption}</caption><thead><tr>"
    );
    for cell in head {
        out.push_str(&format!("<th scope=\"col\">{}</th>", escape(cell)));
    }
    out.push_str("</tr></thead><tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for (i, cell) in row.iter().enumerate() {
            let cell = escape(cell);
            if i == 0 {
                out.push_str(&format!("<th scope=\"row\">{cell}</th>"));
            } else if english == Some(i) {
                out.push_str(&format!("<td lang=\"en\">{cell}</td>"));
            } else if cell.chars().count() > SENTENCE {
                out.push_str(&format!("<td class=\"sentence\">{cell}</td>"));
            } else {
                out.push_str(&format!("<td>{cell}</td>"));
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
    out
}

/// An SVG document as an element of a page: one image with its description, as wide as the page allows.
pub(super) fn inline_svg(svg: &str, alt: &str) -> String {
    let start = svg.find("<svg").unwrap_or(0);
    svg[start..].replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{}\" ", escape(alt)), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_escapes_the_escape() {
        assert_eq!(escape("<a href=\"x\" t='y'>&\u{7}"), "&lt;a href=&quot;x&quot; t=&#39;y&#39;&gt;&amp; ");
    }

    #[test]
    fn svg_gets_its_description() {
        let svg = inline_svg("<?xml?><svg width=\"1\"><svg /></svg>", "a \"b\"");
        assert_eq!(svg, "<svg role=\"img\" aria-label=\"a &quot;b&quot;\" width=\"1\"><svg /></svg>");
    }
}
