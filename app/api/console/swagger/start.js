"use strict";
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: false, // a key stays in memory and goes with the page
  validatorUrl: null, // nobody else is asked
});
