/** The token of whoever looks, where the server does not know it by its machine. */

import { token } from './api.js';

const element = (id) => document.getElementById(id);

export function askForToken() {
  element('sign-in').hidden = false;
}

export function startSignIn() {
  element('sign-out').hidden = token.get() === '';
  element('sign-in').addEventListener('submit', (event) => {
    event.preventDefault();
    token.set(element('token').value.trim());
    location.reload();
  });
  element('sign-out').addEventListener('click', () => {
    token.set('');
    location.reload();
  });
}
