{"principal": {"type": "User", "id": "stacey"}, "action": {"type": "Action", "id": "view"}, "resource": {"type": "Photo", "id": "vacation.jpg"}, "context": {"authenticated": true}}
{"principal": {"type": "User", "id": "alice"}, "action": {"type": "Action", "id": "comment"}, "resource": {"type": "Photo", "id": "photo_2.jpg"}, "context": {"authenticated": true}}
{"principal": {"type": "User", "id": "giuseppe"}, "action": {"type": "Action", "id": "view"}, "resource": {"type": "Photo", "id": "sales_projections.jpg"}, "context": {"authenticated": true}}
