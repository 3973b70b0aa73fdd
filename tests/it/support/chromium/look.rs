//! The ways in which tests look at a page, and the files that they keep of it.

use std::fs;

/// How a page is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) name: &'static str,
    pub(super) scheme: &'static str,
    /// Of CSS; empty for the screen.
    pub(super) media: &'static str,
    pub(super) width: u32,
    pub(super) height: u32,
}

pub(crate) const LIGHT: Look = Look {
    name: "light",
    scheme: "light",
    media: "",
    width: 1280,
    height: 900,
};
/// As wide as a small telephone.
pub(crate) const NARROW: Look = Look {
    name: "narrow",
    width: 375,
    height: 800,
    ..LIGHT
};
pub(crate) const NARROW_DARK: Look = Look {
    name: "narrow-dark",
    scheme: "dark",
    ..NARROW
};

/// As on a sheet of A4 within margins of a centimetre or more, for a reader who prefers dark colours.
pub(crate) const PRINT: Look = Look {
    name: "print",
    scheme: "dark",
    media: "print",
    width: 700,
    height: 1000,
};

/// Writes a picture to `target/pictures`.
pub(crate) fn keep_picture(name: &str, png: &[u8]) {
    let folder = format!("{}/target/pictures", env!("CARGO_MANIFEST_DIR"));
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(format!("{folder}/{name}.png"), png).expect("a file");
}
