"use strict";
/* A button beside each command that copies it; without a script the command can still be marked. */
for (const code of document.querySelectorAll(".commands pre code")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy: ${code.textContent}`);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      window.getSelection().selectAllChildren(code);
      button.textContent = "Marked";
    }
  });
  code.parentElement.before(button);
}
