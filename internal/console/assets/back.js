"use strict";
// The last step of a sign-in is a form, because opening a link may change
// nothing. Whoever has scripts need not press its button.
document.getElementById("back").requestSubmit();
